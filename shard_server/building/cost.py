"""The bytes of an index, by recipe and rows, before it is built. Pure.

Rule: they follow from the formats, and tests hold them against built files. Must not know budgets.
"""

from dataclasses import dataclass

from shard_server.building.recipe import Recipe
from shard_server.limits import MAX_FETCH, MAX_N_PROBE, MAX_QUERIES, MAX_TABLE_BYTES
from shoal.formats.manifest import Metric

_ID_BYTES = 8
_IDS_ROW_BYTES = 12
_ROW_BYTES = 8 + 3 * 4
"""passages.arrow beside its texts: an ordinal and three offsets."""
_BLOCK_ROWS = 32
"""Fast-scan codes, and a GPU's lists, come in blocks of this many vectors."""
_GPU_LIST_BYTES = 2 * 256 + 64
"""A list's two allocations on a GPU, rounded up to 256 bytes, and its descriptors."""
_HIT_BYTES = 12 * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A recipe's bytes for a number of rows in one segment.

    `codes`, `list_ids` and `slack` (blocks that are not full, and lists' counts) grow with rows;
    `trained` (transform, centroids, codebook) does not. Together they are index.faiss, which a
    shard holds in memory with `tables` (made on reading) and `ordinals`. `vectors`, `ids` and
    `passages` are mapped. `search` is temporary space of one call of MAX_QUERIES.
    """

    codes: int
    list_ids: int
    slack: int
    trained: int
    tables: int
    ordinals: int
    vectors: int
    ids: int
    passages: int
    search: int

    @property
    def index(self) -> int:
        """index.faiss."""
        return self.codes + self.list_ids + self.slack + self.trained if self.codes else 0

    @property
    def resident(self) -> int:
        """Memory that stays taken while the version is loaded, without mapped files."""
        return self.index + self.tables + self.ordinals

    @property
    def mapped(self) -> int:
        """Files that the page cache holds as far as there is room."""
        return self.vectors + self.ids + self.passages


def cost_of(recipe: Recipe, *, n_rows: int, dim: int, metric: Metric, passage_bytes: int) -> Cost:
    """The bytes of `n_rows` in one segment."""
    has_index = recipe.is_trained
    slack = 8 * recipe.n_lists
    if recipe.code_bits == 4:
        slack += max(recipe.n_lists, 1) * (_BLOCK_ROWS - 1) * recipe.code_bytes // 2
    by_residual_l2 = recipe.codec == "PQ" and recipe.code_bits == 8 and metric == "l2"
    tables = recipe.n_lists * recipe.n_codes * 256 * 4 if by_residual_l2 else 0
    return Cost(
        codes=n_rows * recipe.code_bytes,
        list_ids=n_rows * _ID_BYTES if recipe.n_lists else 0,
        slack=slack,
        trained=_trained_bytes(recipe, dim) if has_index else 0,
        tables=tables if tables <= MAX_TABLE_BYTES else 0,
        ordinals=8 * n_rows,
        vectors=2 * dim * n_rows,
        ids=_IDS_ROW_BYTES * n_rows,
        passages=(passage_bytes + _ROW_BYTES) * n_rows,
        search=_search_bytes(recipe, n_rows=n_rows, dim=dim),
    )


def gpu_bytes(recipe: Recipe, cost: Cost, *, n_rows: int) -> int:
    """A version's memory on a GPU: codes and ids in blocks of 32, and what was trained."""
    lost_rows = recipe.n_lists * (_BLOCK_ROWS - 1) // 2
    lists = (n_rows + lost_rows) * (recipe.code_bytes + _ID_BYTES)
    return lists + recipe.n_lists * _GPU_LIST_BYTES + cost.trained


def _trained_bytes(recipe: Recipe, dim: int) -> int:
    """trained.faiss: transform, centroids, codebook, ranges; some 100 bytes of headers aside."""
    transform = 4 * dim * recipe.code_dim if recipe.transform else 0
    if recipe.transform == "PCA":
        transform += 4 * dim * dim + 8 * dim  # faiss keeps all components
    codebook = 4 * recipe.code_dim * 2**recipe.code_bits if recipe.code_bits else 0
    ranges = 8 * recipe.code_dim if recipe.codec == "SQ8" else 0
    return transform + 4 * recipe.n_lists * recipe.code_dim + codebook + ranges


def _search_bytes(recipe: Recipe, *, n_rows: int, dim: int) -> int:
    """Queries, their hits twice, and the lookup tables of PQ without lists (with: a list's)."""
    per_query = 4 * (dim + recipe.code_dim) + _HIT_BYTES * min(MAX_FETCH, n_rows)
    if recipe.codec == "PQ" and not recipe.n_lists:
        per_query += 4 * recipe.n_codes * 2**recipe.code_bits
    return MAX_QUERIES * per_query + 4 * MAX_QUERIES * min(recipe.n_lists, MAX_N_PROBE) * 3
