"""A translator that knows the rules of dictionary inference and sees an episode's characters alone."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = LETTERS + "/,;?"  # end of a sequence, example separator, end of the support set, placeholder


def read(observations):
    """The examples [(source, target)], the question and the number of placeholders of an episode's numbers [T]."""
    text = "".join(CHARACTERS[number] for number in observations)
    support, rest = text.split(";")
    question, placeholders = rest.split("/")
    assert set(placeholders) == {"?"}
    return [tuple(example.split("/")) for example in support.split(",")], question, len(placeholders)


def translate(observations):
    """Infer the answer's letters as numbers from the examples; a KeyError if they do not determine it."""
    examples, question, _ = read(observations)
    dictionary = {}
    for source, target in examples:
        for word, meaning in zip(source, target, strict=True):
            assert dictionary.setdefault(word, meaning) == meaning, "one letter has two translations"
    assert len(set(dictionary.values())) == len(dictionary), "two letters have one translation"
    assert not set(dictionary) & set(dictionary.values()), "a letter is of both alphabets"
    return [LETTERS.index(dictionary[letter]) for letter in question]
