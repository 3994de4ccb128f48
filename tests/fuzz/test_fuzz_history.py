"""An index through any order of building, adding, going back and pruning, beside a model of it."""

import shutil
import tempfile
from pathlib import Path

import pytest
from fuzz import tiny
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shard_server.building import add_passages, build_index, verify_index
from shard_server.devices import CpuBackend
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shoal.errors import ConfigError, CorpusError
from shoal.formats.history import prune_versions, roll_back
from shoal.formats.versions import list_versions, load_manifest

_STEPS = 8
_IDS = st.sets(st.integers(0, 40), min_size=1, max_size=6)
_EDITIONS = st.integers(0, 99)


class IndexHistory(RuleBasedStateMachine):
    """The model: each version's passages as number and edition, and the next ordinal."""

    @initialize(recipe=st.sampled_from(("Flat", "IVF2,SQ8")), numbers=_IDS)
    def begin(self, recipe, numbers):
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-fuzz-")) / "index"
        self.recipe = recipe
        self.versions: dict[int, dict[int, int]] = {}
        self.live = self.next_ordinal = 0
        self._built({*numbers, *range(40, 80)}, 0)  # enough to train lists from

    def _built(self, numbers, edition, **changes):
        options = tiny.options(self.recipe, **changes)
        build_index(self.folder, tiny.passages(sorted(numbers), edition), tiny.GivenVectors(),
                    options)  # fmt: skip
        self._is_live(dict.fromkeys(numbers, edition), len(numbers))

    def _is_live(self, passages, n_new):
        self.live = max(self.versions, default=0) + 1
        self.versions[self.live] = passages
        self.next_ordinal += n_new

    @rule(numbers=_IDS, edition=_EDITIONS)
    def build_again(self, numbers, edition):
        """The next version, of other passages."""
        self._built({*numbers, *range(50, 90)}, edition, overwrite=True)

    @rule(numbers=_IDS, edition=_EDITIONS, replaces=st.booleans())
    def add(self, numbers, edition, replaces):
        """New ones are added; known ones are replaced, or the addition is refused as a whole."""
        known = self.versions[self.live]
        passages = tiny.passages(sorted(numbers), edition)
        if known.keys() & numbers and not replaces:
            with pytest.raises(CorpusError):
                add_passages(self.folder, passages, tiny.GivenVectors())
            return
        add_passages(self.folder, passages, tiny.GivenVectors(), replace_known=replaces)
        self._is_live({**known, **dict.fromkeys(numbers, edition)}, len(numbers))

    @rule(back=st.integers(0, 4))
    def go_back(self, back):
        """To a version that there is below the live one; any other is refused."""
        target = self.live - back
        if back and target in self.versions:
            roll_back(self.folder, target)
            self._is_live(self.versions[target], 0)
        else:
            with pytest.raises(ConfigError):
                roll_back(self.folder, target)

    @precondition(lambda self: len(self.versions) > 1)
    @rule(keep=st.integers(1, 3))
    def prune(self, keep):
        """The newest stay."""
        kept = sorted(self.versions)[-keep:]
        assert prune_versions(self.folder, keep=keep).kept == tuple(kept)
        self.versions = {version: self.versions[version] for version in kept}

    @rule()
    def try_to_build_over_it(self):
        """Without leave to, nothing is overwritten."""
        with pytest.raises(ConfigError):
            build_index(self.folder, tiny.passages(range(3)), tiny.GivenVectors(),
                        tiny.options("Flat"))  # fmt: skip

    @rule(edition=_EDITIONS)
    def search(self, edition):
        """A shard process opens the live version and finds each of its passages once."""
        manifest = load_manifest(self.folder)
        query = tiny.GivenVectors()([""], [tiny.text(0, edition)])
        found: list[int] = []
        for number in range(len(manifest.shards)):
            data = ShardIndex.read(self.folder, manifest, number)
            index = ShardIndex.place(manifest, number, data, CpuBackend())
            hits = index.search(query, SearchParameters(k=1_000, exact=True), lambda: True)
            found += hits.ordinals[hits.ordinals >= 0].tolist()
            index.close()
        assert len(set(found)) == len(found) == len(self.versions[self.live])
        assert max(found) < self.next_ordinal

    @invariant()
    def everything_is_there(self):
        """Every version that the model has verifies and holds its passages, and no other exists."""
        if not getattr(self, "live", 0):
            return
        report = verify_index(self.folder)
        assert report.faults == ()
        assert (report.current, report.n_unfinished_bytes) == (self.live, 0)
        assert list_versions(self.folder) == tuple(sorted(self.versions))
        assert load_manifest(self.folder) == load_manifest(self.folder, self.live)
        assert load_manifest(self.folder).next_ordinal == self.next_ordinal
        for version, passages in self.versions.items():
            manifest = load_manifest(self.folder, version)
            assert tiny.texts_of(self.folder, manifest) == {
                f"p{number}": tiny.text(number, edition) for number, edition in passages.items()
            }

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder.parent)


def test_any_history_is_told_right(fuzz):
    """Whatever order: the live version is the model's, old ones stay whole, no stray file stays."""
    n_histories = max(2, fuzz.n_examples // 100)
    machine = seed(fuzz.seed)(IndexHistory)
    how = settings(max_examples=n_histories, stateful_step_count=_STEPS, database=None,
                   suppress_health_check=list(HealthCheck))  # fmt: skip
    run_state_machine_as_test(machine, settings=how)
