"""English surface forms: every spelling under which a word of a class table may stand in a caption.

WordNet's lemmatiser goes from the text to the dictionary and needs its data and a tagger for every caption. Here the
few words of a class table are turned into their inflected forms once, so that matching is a lookup. The rules cover
regular plurals, the irregular ones that photographs are described with, and verb endings ("skiing" for "ski").
"""

from __future__ import annotations

VOWELS = "aeiou"

# Plurals that no rule below gives.
IRREGULAR_PLURALS: dict[str, tuple[str, ...]] = {
    "alumnus": ("alumni",),
    "appendix": ("appendices", "appendixes"),
    "bacterium": ("bacteria",),
    "beau": ("beaux", "beaus"),
    "bureau": ("bureaux", "bureaus"),
    "bus": ("buses", "busses", "buss"),
    "cactus": ("cacti", "cactuses"),
    "calf": ("calves",),
    "cherub": ("cherubim", "cherubs"),
    "child": ("children",),
    "criterion": ("criteria",),
    "curriculum": ("curricula", "curriculums"),
    "die": ("dice",),
    "dormouse": ("dormice",),
    "dwarf": ("dwarves", "dwarfs"),
    "elf": ("elves",),
    "focus": ("foci", "focuses"),
    "foot": ("feet",),
    "forefoot": ("forefeet",),
    "fungus": ("fungi", "funguses"),
    "gas": ("gases", "gasses"),
    "goose": ("geese",),
    "grandchild": ("grandchildren",),
    "half": ("halves",),
    "hippopotamus": ("hippopotami", "hippopotamuses"),
    "hoof": ("hooves", "hoofs"),
    "index": ("indices", "indexes"),
    "kerchief": ("kerchiefs", "kerchieves"),
    "knife": ("knives",),
    "larva": ("larvae", "larvas"),
    "leaf": ("leaves",),
    "life": ("lives",),
    "loaf": ("loaves",),
    "louse": ("lice",),
    "matrix": ("matrices", "matrixes"),
    "medium": ("media", "mediums"),
    "mouse": ("mice",),
    "nucleus": ("nuclei",),
    "octopus": ("octopuses", "octopi", "octopodes"),
    "ox": ("oxen",),
    "penny": ("pennies", "pence"),
    "person": ("people", "persons"),
    "phenomenon": ("phenomena",),
    "plateau": ("plateaux", "plateaus"),
    "platypus": ("platypuses", "platypi"),
    "quiz": ("quizzes",),
    "radius": ("radii",),
    "scarf": ("scarves", "scarfs"),
    "self": ("selves",),
    "sheaf": ("sheaves",),
    "shelf": ("shelves",),
    "stimulus": ("stimuli",),
    "stratum": ("strata",),
    "syllabus": ("syllabi", "syllabuses"),
    "terminus": ("termini",),
    "thief": ("thieves",),
    "tooth": ("teeth",),
    "vertebra": ("vertebrae", "vertebras"),
    "wharf": ("wharves", "wharfs"),
    "wife": ("wives",),
    "wolf": ("wolves",),
}

# Endings that carry an irregular plural into longer words ("fireman", "housewife", "bookshelf").
IRREGULAR_ENDINGS: dict[str, str] = {
    "child": "children",
    "foot": "feet",
    "knife": "knives",
    "leaf": "leaves",
    "man": "men",
    "person": "people",
    "shelf": "shelves",
    "tooth": "teeth",
    "wife": "wives",
    "wolf": "wolves",
}
REGULAR_MAN = frozenset({"caiman", "german", "human", "ottoman", "roman", "shaman", "talisman", "norman", "brahman"})

# Words in -s that are not plurals, or whose singular is another thing ("glasses", "news"): never cut to a singular.
# fmt: off
NO_SINGULAR = frozenset(
    {
        "always", "athletics", "atlas", "binoculars", "bus", "canvas", "christmas", "clothes", "gas", "glasses",
        "goggles", "gymnastics", "headquarters", "jeans", "lens", "mathematics", "mess", "news", "pajamas", "pants",
        "pliers", "plus", "pyjamas", "scissors", "series", "shears", "shorts", "species", "sunglasses", "sweatpants",
        "tongs", "trousers", "tweezers",
    }
)
# fmt: on

# Words in -ing and -ed that live a life of their own: "bedding" is no bed, "bowling" no bowl, "iced" no ice.
# fmt: off
OWN_WORDS = frozenset(
    {
        "bearing", "bedding", "boarding", "bowling", "boxing", "building", "casing", "ceiling", "clothing", "coating",
        "crossing", "decking", "drawing", "earring", "evening", "fencing", "filling", "flooring", "flowered",
        "flowering", "footing", "frosting", "gardening", "grating", "helping", "herring", "housing", "iced", "icing",
        "landing", "lighting", "lining", "matting", "molding", "morning", "painting", "paneling", "parking", "piling",
        "planking", "pudding", "railing", "ring", "roofing", "seating", "setting", "shaving", "sibling", "siding",
        "sporting", "spring", "stocking", "string", "stuffing", "topping", "towering", "training", "tubing",
        "watering", "wedding", "wing", "wiring",
    }
)
# fmt: on

# Past forms of verbs that name things seen happening in photographs.
IRREGULAR_PASTS: dict[str, tuple[str, ...]] = {
    "dive": ("dove", "dived"),
    "drink": ("drank", "drunk"),
    "drive": ("drove", "driven"),
    "eat": ("ate", "eaten"),
    "fly": ("flew", "flown"),
    "read": (),
    "ride": ("rode", "ridden"),
    "run": ("ran",),
    "sing": ("sang", "sung"),
    "sit": ("sat",),
    "sleep": ("slept",),
    "stand": ("stood",),
    "swim": ("swam", "swum"),
    "throw": ("threw", "thrown"),
    "write": ("wrote", "written"),
}


def irregular_plurals(word: str) -> tuple[str, ...]:
    """Return the plurals of an English noun that no rule gives ("men", "geese"), empty if it has none."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    for ending, plural in IRREGULAR_ENDINGS.items():
        if word.endswith(ending) and word not in REGULAR_MAN:
            regular = (word + "s",) if ending == "person" else ()
            return (word[: -len(ending)] + plural, *regular)
    return ()


def plurals(word: str) -> tuple[str, ...]:
    """Return the plural spellings of an English noun.

    Args:
        word (`str`): One lower-case word.

    Returns:
        `tuple[str, ...]`: The plurals, most usual first, without duplicates. Spellings that nobody uses ("pianoes")
        may be among them: they match nothing. Words whose
        plural is the word itself get the regular spelling that careless captions use ("sheeps").
    """
    if irregular := irregular_plurals(word):
        return irregular
    if len(word) > 1 and word.endswith("y") and word[-2] not in VOWELS:
        return (word[:-1] + "ies",)
    if word.endswith("is"):
        return (word[:-2] + "es",)
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    if word.endswith("o"):
        return (word + "s", word + "es")
    return (word + "s",)


def singulars(word: str) -> tuple[str, ...]:
    """Return the singular of an English plural noun: the words whose `plurals` hold it.

    Args:
        word (`str`): One lower-case word, as a label in the plural ("clouds").

    Returns:
        `tuple[str, ...]`: The singular ("cloud"), both where the spelling leaves two ("movy", "movie"); empty if the
        word is not a plural, as "bus", "glass" and "scissors".
    """
    for singular, forms in IRREGULAR_PLURALS.items():
        if word in forms:
            return (singular,)
    for ending, plural in IRREGULAR_ENDINGS.items():
        if word.endswith(plural):
            return (word[: -len(plural)] + ending,)
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")) or word in NO_SINGULAR:
        # "skis" and "taxis" are the plurals in -is that photographs know.
        return (word[:-1],) if word in ("skis", "taxis", "kiwis", "bikinis") else ()
    if word.endswith("ies") and len(word) > 4:
        return (word[:-3] + "y", word[:-1])  # cherries, movies
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return (word[:-2], word[:-1])  # tomatoes, shoes
    return (word[:-1],)


def verb_forms(word: str) -> tuple[str, ...]:
    """Return the -ing and -ed forms under which WordNet's lemmatiser may find a word.

    Args:
        word (`str`): One lower-case word; whether it is a verb need not be known ("catted" matches nothing).

    Returns:
        `tuple[str, ...]`: The forms, without words that have a meaning of their own ("bedding", "bowling").
    """
    if len(word) < 3 or not word.isascii() or not word.isalpha():
        return ()
    if word.endswith("ie"):
        stem_ing, stem_ed = word[:-2] + "y", word[:-1]
    elif word.endswith("e") and word[-2] not in "eoy":
        stem_ing = stem_ed = word[:-1]
    elif word.endswith("e"):
        stem_ing, stem_ed = word, word[:-1]
    elif word.endswith("y") and word[-2] not in VOWELS:
        stem_ing, stem_ed = word, word[:-1] + "i"
    else:
        stem_ing = stem_ed = word + word[-1] if _doubles_last_letter(word) else word
    pasts = IRREGULAR_PASTS.get(word, (stem_ed + "ed",))
    return tuple(form for form in (stem_ing + "ing", *pasts) if form not in OWN_WORDS)


def noun_forms(word: str) -> tuple[str, ...]:
    """Return a noun with its singular and plural spellings.

    Args:
        word (`str`): One lower-case word, singular or plural.

    Returns:
        `tuple[str, ...]`: The word first, then its singular if it is a plural, else its plurals.
    """
    if len(word) < 2:
        return (word,)
    singular = singulars(word)
    forms = (word, *(singular or plurals(word)))
    if not word.endswith("s"):
        forms += (word + "s",)  # "mans", "peoples", "leafs": the possessive without apostrophe, the plural by rote
    return tuple(dict.fromkeys(forms))


def _doubles_last_letter(word: str) -> bool:
    """Tell whether a word of one syllable ends in consonant, vowel, consonant, as "run" and "swim"."""
    if word[-1] in VOWELS + "wxy" or word[-2] not in VOWELS or word[-3] in VOWELS:
        return False
    groups = "".join("v" if letter in VOWELS else " " for letter in word).split()
    return len(groups) == 1
