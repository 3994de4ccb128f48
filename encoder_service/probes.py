"""The texts whose vectors prove a tower: fixed for good, since manifests record their vectors."""

PROBE_TEXTS: tuple[str, ...] = (
    "who wrote the iliad?",
    "Water boils at 100 degrees Celsius at sea level.",
    "The committee postponed its decision until the budget for 1987 had been published.",
    "def mean(values): return sum(values) / len(values)",
    "Das Schiff verließ den Hafen am frühen Morgen.",
    "東京は日本の首都です。",
    "protein",
    (
        "In 1854 a physician traced an outbreak of cholera to a single water pump by marking every "
        "death on a map of the district; the handle was removed, the outbreak ended, and the map "
        "became one of the first arguments from the geography of a disease."
    ),
)
