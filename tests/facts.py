"""A small corpus of facts, and questions whose passages are beyond doubt."""

FACTS = {
    "set-pop": ("Sets", "The pop method removes and returns an arbitrary element from a set."),
    "list-sort": ("Lists", "A list is sorted in place with its sort method, by a key if given."),
    "dict-get": ("Dictionaries", "get returns a default where a dictionary has no such key."),
    "file-lines": ("Files", "Iterating over an open text file yields its lines one by one."),
    "atexit": ("Shutdown", "Functions registered with atexit run when the interpreter exits."),
    "tempdir": ("Temporary files", "TemporaryDirectory makes a folder and deletes it afterwards."),
    "deepcopy": ("Copies", "A deep copy copies the objects inside as well, recursively."),
    "counter": ("Counting", "Counter counts how many times each element occurs in an iterable."),
    "lion": ("Animals", "Lions live in groups called prides on the African savanna."),
    "whale": ("Animals", "The blue whale is the largest animal that has ever lived on Earth."),
    "paris": ("Cities", "Paris, on the river Seine, is the capital of France."),
    "tokyo": ("Cities", "Tokyo is the capital of Japan and its most populous city."),
    "photosynthesis": ("Plants", "Plants turn sunlight, water and carbon dioxide into sugar."),
    "volcano": ("Earth", "A volcano erupts when molten rock from the mantle reaches the surface."),
    "violin": ("Music", "A violin has four strings, tuned in fifths and played with a bow."),
    "bread": ("Food", "Bread rises because yeast makes gas in the dough."),
}
QUESTIONS = {
    "how do I take any one item out of a set": "set-pop",
    "count the occurrences of each item in a list": "counter",
    "call a function when python shuts down": "atexit",
    "which animal is the biggest": "whale",
    "what is the French capital": "paris",
    "why does dough get bigger": "bread",
    "what instrument has four strings and a bow": "violin",
    "how do plants make their food": "photosynthesis",
}
