"""The words and numbers that fill the frames, split once and for all into a training and a held-out side.

Every value decides its own side by a checksum, so the two sides stay disjoint however the lists grow.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from training.conversations import Split

HELD_OUT_SHARE = 8
"""One value in this many is held out."""

CITIES = ["Amsterdam", "Ankara", "Athens", "Auckland", "Austin", "Bangkok", "Barcelona", "Basel", "Beijing", "Belfast", "Bergen", "Berlin", "Bern", "Bilbao", "Bogota", "Bologna", "Boston", "Bratislava", "Bremen", "Brisbane", "Bristol", "Brussels", "Bucharest", "Budapest", "Cairo", "Calgary", "Cardiff", "Chengdu", "Chicago", "Cologne", "Copenhagen", "Cordoba", "Dakar", "Dallas", "Delhi", "Denver", "Detroit", "Dresden", "Dublin", "Durban", "Edinburgh", "Florence", "Frankfurt", "Geneva", "Genoa", "Ghent", "Glasgow", "Graz", "Guangzhou", "Hamburg", "Hangzhou", "Hanoi", "Havana", "Helsinki", "Houston", "Istanbul", "Jakarta", "Karachi", "Kiel", "Kigali", "Kobe", "Krakow", "Kyoto", "Lagos", "Leeds", "Leipzig", "Lima", "Lisbon", "Liverpool", "Ljubljana", "London", "Lyon", "Madrid", "Malaga", "Malmo", "Manchester", "Manila", "Marseille", "Melbourne", "Miami", "Milan", "Montreal", "Moscow", "Mumbai", "Munich", "Nagoya", "Nairobi", "Nanjing", "Naples", "Nice", "Oslo", "Osaka", "Ottawa", "Oxford", "Palermo", "Paris", "Perth", "Phoenix", "Porto", "Prague", "Quito", "Reykjavik", "Riga", "Rome", "Rotterdam", "Salzburg", "Santiago", "Sapporo", "Seattle", "Seoul", "Seville", "Shanghai", "Shenzhen", "Singapore", "Sofia", "Stockholm", "Stuttgart", "Suzhou", "Sydney", "Taipei", "Tallinn", "Tampere", "Tokyo", "Toledo", "Toronto", "Toulouse", "Trieste", "Tunis", "Turin", "Utrecht", "Valencia", "Vancouver", "Venice", "Verona", "Vienna", "Vilnius", "Warsaw", "Wellington", "Wuhan", "Xian", "York", "Zagreb", "Zaragoza", "Zurich"]

NAMES = ["Ada", "Adam", "Aisha", "Alan", "Alice", "Amara", "Amir", "Ana", "Anders", "Anna", "Anton", "Ava", "Ben", "Bianca", "Bob", "Carla", "Carlos", "Chen", "Chloe", "Clara", "Daniel", "David", "Diana", "Elena", "Eli", "Emil", "Emma", "Erik", "Eva", "Felix", "Fiona", "Frank", "George", "Grace", "Hana", "Hans", "Helen", "Henry", "Hugo", "Ida", "Ines", "Ingrid", "Ivan", "Jack", "James", "Jana", "Jin", "Joao", "Jonas", "Julia", "Kai", "Karim", "Kate", "Kenji", "Lars", "Laura", "Lena", "Leo", "Li", "Liam", "Lina", "Lucas", "Lucy", "Maja", "Marco", "Maria", "Mark", "Marta", "Max", "Mei", "Mia", "Mila", "Milo", "Nadia", "Nina", "Noah", "Nora", "Olaf", "Olga", "Oliver", "Omar", "Oscar", "Otto", "Pablo", "Paul", "Peter", "Petra", "Priya", "Rosa", "Ravi", "Rita", "Sam", "Sama", "Sara", "Sofia", "Stefan", "Tara", "Theo", "Tim", "Tom", "Uma", "Vera", "Victor", "Wei", "Yara", "Yuki", "Yusuf", "Zoe"]

NOUNS = ["alarm", "album", "apple", "article", "badge", "ball", "basket", "battery", "beacon", "bicycle", "blanket", "board", "book", "bottle", "box", "bridge", "bucket", "cabin", "cable", "camera", "candle", "card", "carpet", "chair", "clock", "cloud", "coat", "coin", "contract", "cup", "curtain", "desk", "device", "document", "door", "drawer", "drum", "engine", "envelope", "fence", "file", "flag", "flower", "folder", "fork", "game", "garden", "gate", "glass", "guitar", "hammer", "hat", "helmet", "house", "invoice", "jacket", "journal", "kettle", "key", "kitchen", "ladder", "lamp", "laptop", "letter", "library", "light", "lock", "machine", "magnet", "map", "market", "meeting", "memo", "menu", "message", "mirror", "monitor", "motor", "museum", "needle", "note", "notebook", "novel", "oven", "package", "painting", "paper", "parcel", "pencil", "phone", "photo", "piano", "picture", "pillow", "planet", "plate", "playlist", "pocket", "poem", "poster", "printer", "project", "puzzle", "radio", "receipt", "recipe", "record", "report", "ribbon", "robot", "room", "rope", "route", "sail", "sample", "saw", "scarf", "schedule", "screen", "script", "sensor", "server", "shelf", "ship", "shirt", "shoe", "signal", "song", "spoon", "stamp", "station", "statue", "stone", "story", "street", "suitcase", "sword", "table", "tent", "ticket", "timer", "token", "tool", "tower", "toy", "train", "tray", "tree", "trophy", "truck", "tunnel", "umbrella", "vase", "video", "violin", "wagon", "wallet", "watch", "wheel", "window", "wire", "yacht"]

ADJECTIVES = ["big", "blue", "bright", "broken", "brown", "calm", "clean", "cold", "cool", "dark", "deep", "dry", "early", "easy", "empty", "fast", "flat", "fresh", "full", "gray", "green", "happy", "hard", "heavy", "high", "hot", "late", "light", "long", "loud", "low", "new", "nice", "old", "orange", "pink", "plain", "purple", "quick", "quiet", "red", "rich", "rough", "round", "sharp", "short", "simple", "slow", "small", "soft", "square", "strong", "sweet", "tall", "thin", "tiny", "warm", "wet", "white", "wide", "yellow", "young"]

VERBS = ["add", "archive", "assign", "attach", "book", "build", "buy", "cancel", "check", "clean", "close", "compare", "compress", "copy", "count", "create", "delete", "draw", "export", "fetch", "find", "fix", "format", "import", "install", "label", "list", "load", "lock", "mark", "merge", "move", "open", "order", "park", "pause", "play", "print", "publish", "queue", "read", "remove", "rename", "repair", "replace", "report", "reserve", "reset", "resize", "restart", "return", "save", "scan", "schedule", "search", "sell", "send", "share", "show", "sign", "sort", "start", "stop", "store", "submit", "switch", "sync", "tag", "test", "track", "translate", "trim", "unlock", "update", "upload", "verify", "water", "wrap", "write"]

FIELDS = ["age", "amount", "author", "brand", "category", "channel", "city", "code", "color", "comment", "country", "currency", "date", "day", "depth", "department", "description", "destination", "direction", "duration", "email", "floor", "folder", "format", "genre", "grade", "group", "height", "host", "hour", "id", "item", "job", "kind", "label", "language", "length", "level", "limit", "location", "minutes", "mode", "model", "month", "name", "number", "owner", "page", "path", "phone", "place", "plan", "port", "position", "price", "priority", "project", "quantity", "rank", "rate", "reason", "region", "role", "room", "score", "season", "seat", "size", "source", "speed", "state", "status", "street", "subject", "target", "team", "temperature", "time", "title", "topic", "type", "unit", "user", "value", "version", "volume", "weight", "width", "word", "year", "zone"]

_ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "ch", "cl", "dr", "fl", "gr", "kl", "kr", "pl", "pr", "sh", "sk", "sl", "sp", "st", "th", "tr", "qu"]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ei", "ia", "io", "oo", "ou", "y"]
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "k", "m", "x", "nd", "ng", "rt", "sk", "ck"]

T = TypeVar("T")


def is_held_out(value: object) -> bool:
    """Whether a value is kept for evaluation; case and surrounding blanks do not matter."""
    return zlib.crc32(str(value).strip().lower().encode()) % HELD_OUT_SHARE == 0


class Draw:
    """A seeded source of choices; values (not frames) come only from its side of the split."""

    def __init__(self, random: Random, split: Split) -> None:
        self.random = random
        self.split = split

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random.random() < probability

    def frame(self, options: Sequence[T]) -> T:
        """One of the options, whatever the side."""
        return options[self.random.randrange(len(options))]

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included, whatever the side."""
        return self.random.randint(low, high)

    def value(self, options: Sequence[T]) -> T:
        """One of the options that belongs to this side."""
        while True:
            option = self.frame(options)
            if is_held_out(option) == (self.split == "held_out"):
                return option

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Different options of this side, in random order."""
        found: list[T] = []
        while len(found) < count:
            option = self.value(options)
            if option not in found:
                found.append(option)
        return found

    def number(self, low: int, high: int) -> int:
        """A whole number of this side; numbers below 20 belong to both."""
        while True:
            number = self.random.randint(low, high)
            if number < 20 or is_held_out(number) == (self.split == "held_out"):
                return number

    def made_up(self) -> str:
        """A word that no language has, in lower case."""
        while True:
            word = "".join(
                self.frame(_ONSETS) + self.frame(_VOWELS) + (self.frame(_CODAS) if self.chance(0.5) else "")
                for _ in range(self.random.choice((1, 2, 2, 2, 3, 3, 4)))
            )
            if len(word) > 2 and is_held_out(word) == (self.split == "held_out"):
                return word

    def code(self) -> str:
        """An identifier such as "kx-4921" or "B77f"."""
        while True:
            letters = "".join(self.frame("abcdefghijklmnopqrstuvwxyz") for _ in range(self.between(1, 4)))
            if self.chance(0.4):
                letters = letters.upper()
            digits = "".join(self.frame("0123456789") for _ in range(self.between(1, 5)))
            code = self.frame(("{0}-{1}", "{0}{1}", "{0}_{1}", "{1}-{0}", "{0}{1}{0}")).format(letters, digits)
            if is_held_out(code) == (self.split == "held_out"):
                return code

    def city(self) -> str:
        """A city, real or made up; the made-up ones teach to copy what was never seen."""
        if self.chance(0.45):
            return self.value(CITIES)
        city = self.made_up().capitalize()
        return f"{self.frame(('New', 'San', 'Port', 'Bad', 'St.', 'Fort'))} {city}" if self.chance(0.1) else city

    def name(self) -> str:
        """A first name, real or made up."""
        return self.value(NAMES) if self.chance(0.5) else self.made_up().capitalize()

    def noun(self) -> str:
        """A thing, real or made up."""
        return self.value(NOUNS) if self.chance(0.75) else self.made_up()

    def word(self) -> str:
        """Any lower-case word."""
        pool = self.frame((NOUNS, ADJECTIVES, VERBS, None))
        return self.made_up() if pool is None else self.value(pool)

    def words(self, low: int, high: int) -> str:
        """Several words, separated by single blanks."""
        return " ".join(self.word() for _ in range(self.between(low, high)))

    def title(self) -> str:
        """Two or three words that could head something, sometimes capitalised."""
        text = self.words(1, 3)
        return text.capitalize() if self.chance(0.4) else text
