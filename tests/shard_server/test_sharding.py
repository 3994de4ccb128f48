"""The claim that the whole design rests on, shown on real builds: sharding changes no answer."""

import numpy as np
import pytest
from fakes.known_vectors import Rows

from shard_server.building import BuildOptions, Passage, build_index
from shard_server.hits import merge
from shard_server.limits import SearchParameters


@pytest.fixture(scope="module")
def build(tmp_path_factory, corpus):
    """Build the corpus in so many shards; returns folder and manifest."""

    def build_(recipe, n_shards):
        folder = tmp_path_factory.mktemp("index")
        passages = (
            Passage(id=f"p{i}", title="", text=str(i), where=f"made-up:{i}")
            for i in range(len(corpus.vectors))
        )
        options = BuildOptions(
            name="tiny", recipe=recipe, n_shards=n_shards, max_training_vectors=1_248
        )
        return folder, build_index(folder, passages, Rows(corpus.vectors), options)

    return build_


@pytest.mark.parametrize("recipe", ["IVF32,PQ8", "IVF32,PQ16x4fs"])
def test_one_to_eight_shards_answer_alike(corpus, build, open_shard, recipe):
    """Scores bit for bit, rescoring off; and ids, ties included, for k of 10 and of 100."""
    folder, manifest = build(recipe, 1)
    whole = open_shard(folder, manifest)
    sharded = []
    for n_shards in (2, 4, 8):
        folder, manifest = build(recipe, n_shards)
        sharded.append([open_shard(folder, manifest, shard) for shard in range(n_shards)])
    for k in (1, 10, 100):
        parameters = SearchParameters(k=k, n_probe=8)
        wanted = whole.search(corpus.queries, parameters)
        for shards in sharded:
            found = merge([shard.search(corpus.queries, parameters) for shard in shards], k)
            np.testing.assert_array_equal(
                np.ascontiguousarray(found.scores).view("u4"),
                np.ascontiguousarray(wanted.scores).view("u4"),
            )
            np.testing.assert_array_equal(found.ordinals, wanted.ordinals)


def test_exact_answers_do_not_depend_on_shards(corpus, build, open_shard):
    """Stored vectors are scored alike wherever they lie."""
    folder, manifest = build("Flat", 1)
    parameters = SearchParameters(k=20, exact=True)
    wanted = open_shard(folder, manifest).search(corpus.queries, parameters)
    folder, manifest = build("Flat", 4)
    parts = [open_shard(folder, manifest, i).search(corpus.queries, parameters) for i in range(4)]
    found = merge(parts, 20)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.ordinals, wanted.ordinals)
