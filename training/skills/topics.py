"""Short explanations: three sentences a topic, from which every asked form is built.

The first sentence answers alone; all three make the paragraph; each is one bullet. So the model learns a text once and
its forms separately.
"""

from __future__ import annotations

import msgspec

from training.conversations import Conversation, Turn
from training.phrasing import phrase
from training.values import Draw


class Topic(msgspec.Struct, frozen=True):
    """What people call it, and three sentences about it."""

    names: tuple[str, ...]
    sentences: tuple[str, str, str]


TOPICS = (
    Topic(("DeepSeek Sparse Attention", "sparse attention", "DSA"), (
        "DeepSeek Sparse Attention lets each token read only a small, selected part of a long context instead of all of it.",
        "A light indexer scores compressed blocks of earlier tokens, and only the best blocks are read beside a window of recent tokens.",
        "So quality stays close to full attention, while memory and time grow far more slowly with the length.")),
    Topic(("the V4 announcement", "the DeepSeek V4 announcement", "the announcement of V4", "DeepSeek V4", "V4", "the V4 release"), (
        "DeepSeek V4 comes in two sizes: V4-Pro with 1.6 trillion parameters, 49 billion active, and V4-Flash with 284 billion, 13 billion active.",
        "Both read up to one million tokens, made affordable by sparse attention over compressed history.",
        "Both can think before they answer, write JSON and call tools, through an API compatible with OpenAI's.")),
    Topic(("V4-Flash", "DeepSeek V4 Flash", "deepseek-v4-flash"), (
        "V4-Flash is the fast and cheap member of the DeepSeek V4 family.",
        "It has 284 billion parameters, of which 13 billion are active for each token.",
        "It suits everyday traffic, while hard prompts go to V4-Pro.")),
    Topic(("V4-Pro", "DeepSeek V4 Pro", "deepseek-v4-pro"), (
        "V4-Pro is the strongest member of the DeepSeek V4 family.",
        "It has 1.6 trillion parameters, of which 49 billion are active for each token.",
        "It suits advanced reasoning, coding and long tasks with many steps.")),
    Topic(("mini-flash", "this model", "the mini-flash model"), (
        "mini-flash is the small offline model that ships with deepserve.",
        "It has the architecture of DeepSeek V4 with about one million active parameters.",
        "It is there to try every feature of the API, not to be clever.")),
    Topic(("deepserve", "the deepserve server", "this server"), (
        "deepserve is a server that speaks the DeepSeek API on your own machine.",
        "It runs a V4 engine of its own and ships with a small model, so it works offline.",
        "Clients written for DeepSeek or OpenAI can use it by changing the base URL.")),
    Topic(("mixture of experts", "MoE", "a mixture of experts", "mixture-of-experts"), (
        "A mixture of experts has many small networks, and a router picks a few of them for each token.",
        "So the model can hold much knowledge while each token costs little work.",
        "A shared expert that is always on keeps what all tokens need.")),
    Topic(("prefix caching", "context caching", "the prefix cache", "prompt caching"), (
        "Prefix caching keeps the state of a prompt's beginning, so that a later request with the same beginning need not read it again.",
        "It makes the first token come sooner and the input cheaper.",
        "It works best when the fixed parts of a prompt come first.")),
    Topic(("JSON mode", "json mode", "the json_object format"), (
        "JSON mode asks the model to answer with one valid JSON object.",
        "The prompt must contain the word json and should show a small example.",
        "Leave enough output tokens, or the object may be cut off.")),
    Topic(("tool calls", "tool calling", "function calling", "tool use"), (
        "With tool calls the model asks your program to run a function and gives its arguments as JSON.",
        "Your program runs it and sends the result back as a tool message.",
        "The model then uses the result in its answer.")),
    Topic(("thinking mode", "the thinking mode", "reasoning mode"), (
        "In thinking mode the model writes its reasoning before the answer.",
        "The reasoning comes in a field of its own, so that programs can hide it.",
        "An effort setting says how long it may think.")),
    Topic(("streaming", "response streaming", "server-sent events"), (
        "Streaming sends an answer piece by piece while it is being written.",
        "Each piece is a small JSON event, and a last event marks the end.",
        "Users see the first words at once instead of waiting for all of them.")),
    Topic(("tokens", "a token", "tokenization"), (
        "Tokens are the pieces of text that a language model reads and writes.",
        "A token is often a short word or a part of a longer one.",
        "Prices and limits are counted in tokens.")),
    Topic(("temperature", "the temperature parameter", "sampling temperature"), (
        "Temperature says how freely the next token is chosen.",
        "At zero the most likely token always wins, so answers repeat.",
        "Higher values make answers more varied and less certain.")),
    Topic(("top_p", "top-p sampling", "nucleus sampling"), (
        "Nucleus sampling draws only from the smallest set of tokens whose probability reaches top_p.",
        "It removes the unlikely tail and keeps the choice among good candidates.",
        "A value of one switches it off.")),
    Topic(("max_tokens", "the max_tokens parameter"), (
        "max_tokens limits how many tokens the answer may have.",
        "If the limit is reached, the answer stops and the finish reason is length.",
        "In thinking mode the reasoning counts as well.")),
    Topic(("stop sequences", "a stop sequence"), (
        "A stop sequence is a text at which the model must end its answer.",
        "The sequence itself is not part of the answer.",
        "It helps programs to cut an answer at a known mark.")),
    Topic(("the context window", "context window", "context length"), (
        "The context window is the number of tokens that a model can read and write in one request.",
        "It holds the system prompt, the whole conversation and the answer.",
        "DeepSeek V4 has a window of about one million tokens.")),
    Topic(("the KV cache", "KV cache", "a key-value cache"), (
        "The KV cache keeps what attention has computed for earlier tokens.",
        "Thanks to it, each new token costs one step instead of a new reading of everything.",
        "Its size limits how many long conversations fit into memory.")),
    Topic(("attention", "the attention mechanism"), (
        "Attention lets each token gather information from earlier tokens, weighted by how relevant they are.",
        "Relevance is the match between a query and the keys of other tokens.",
        "It is how a language model connects distant words.")),
    Topic(("a transformer", "transformers", "the transformer architecture"), (
        "A transformer is a neural network that mixes attention with small networks applied to every token.",
        "Its layers refine the meaning of each token step by step.",
        "Most language models of today are transformers.")),
    Topic(("hyper-connections", "manifold-constrained hyper-connections", "mHC"), (
        "Hyper-connections replace the single residual stream of a transformer by several parallel ones.",
        "Each layer learns how to read from, write to and mix the streams.",
        "In V4 the mixing is kept balanced, so that deep stacks stay stable.")),
    Topic(("quantization", "model quantization"), (
        "Quantization stores the weights of a model with fewer bits.",
        "The model becomes smaller and often faster, and loses a little accuracy.",
        "Eight and four bits are common choices.")),
    Topic(("speculative decoding", "draft decoding"), (
        "Speculative decoding lets a small model propose several tokens that the large one checks at once.",
        "Accepted tokens come for the price of one step.",
        "The result is the same as without it, only sooner.")),
    Topic(("prompt injection", "a prompt injection attack"), (
        "Prompt injection hides instructions in data that a model reads.",
        "The model may follow them as if the user had written them.",
        "Treat text from outside as data and limit what tools may do.")),
    Topic(("a system prompt", "the system prompt", "system prompts"), (
        "A system prompt tells the model how to behave before the conversation begins.",
        "It can set the role, the tone and the form of the answers.",
        "Keep it short and stable, so that it can be cached.")),
    Topic(("an API key", "API keys"), (
        "An API key is a secret text that tells a server who is calling.",
        "It is sent with each request in a header.",
        "Keep it out of your code and replace it if it leaks.")),
    Topic(("logprobs", "log probabilities"), (
        "Logprobs are the logarithms of the probabilities that the model gave to its tokens.",
        "They show how sure the model was at each step.",
        "They are useful for ranking and for tests.")),
    Topic(("embeddings", "an embedding"), (
        "An embedding is a list of numbers that stands for the meaning of a text.",
        "Similar texts have embeddings that lie close together.",
        "They are used for search and grouping.")),
    Topic(("the OpenAI SDK", "the openai package"), (
        "The OpenAI SDK is a library for calling chat APIs from a program.",
        "Change its base URL and it talks to DeepSeek or to this server.",
        "It supports streaming, tools and JSON answers.")),
    Topic(("machine learning", "ML"), (
        "Machine learning finds rules in examples instead of having them written by hand.",
        "A model is adjusted until its answers fit the examples.",
        "It is then used on cases that it has not seen.")),
    Topic(("a neural network", "neural networks"), (
        "A neural network is a chain of simple functions whose numbers are learned from examples.",
        "Each layer mixes its inputs and bends the result a little.",
        "Many layers together can recognise complex patterns.")),
    Topic(("quantum entanglement", "entanglement"), (
        "Quantum entanglement links particles so that measuring one tells you at once what a measurement of the other will show.",
        "The link holds at any distance, but it cannot carry a message.",
        "It is used in quantum computing and in secure communication.")),
    Topic(("gravity", "gravitation"), (
        "Gravity is the force by which masses attract each other.",
        "It makes things fall and keeps planets on their paths.",
        "In Einstein's theory it is the bending of space and time.")),
    Topic(("photosynthesis",), (
        "Photosynthesis is how plants turn light, water and carbon dioxide into sugar and oxygen.",
        "It happens in green parts, where chlorophyll catches the light.",
        "Nearly all life on Earth depends on it.")),
    Topic(("the water cycle", "water cycle"), (
        "The water cycle moves water between sea, air and land.",
        "The sun lifts vapour, clouds form, and rain or snow brings it back.",
        "Rivers carry it to the sea again.")),
    Topic(("a rainbow", "rainbows"), (
        "A rainbow appears when sunlight is bent and reflected inside drops of rain.",
        "Each colour leaves the drop at a slightly different angle.",
        "You see it with the sun behind you.")),
    Topic(("the moon", "moon"), (
        "The moon is a ball of rock that circles the Earth in about a month.",
        "It shines because it reflects the light of the sun.",
        "Its pull causes the tides.")),
    Topic(("the tides", "ocean tides", "tides"), (
        "Tides are the rise and fall of the sea, caused mainly by the pull of the moon.",
        "Most coasts have two high tides a day.",
        "They are strongest when sun and moon pull along one line.")),
    Topic(("a black hole", "black holes"), (
        "A black hole is a place where gravity is so strong that not even light escapes.",
        "Many form when a very large star collapses.",
        "We find them by their effect on stars and gas nearby.")),
    Topic(("DNA",), (
        "DNA is the molecule that stores the building plan of living things.",
        "It is a long double chain of four kinds of units.",
        "Cells copy it when they divide.")),
    Topic(("evolution", "natural selection"), (
        "Evolution is the change of living things over many generations.",
        "Those that fit their surroundings better leave more offspring.",
        "So useful traits become common over time.")),
    Topic(("a vaccine", "vaccines"), (
        "A vaccine teaches the body to recognise a germ without making it ill.",
        "The body remembers and reacts faster when the real germ comes.",
        "Vaccines prevent many serious diseases.")),
    Topic(("the internet", "internet"), (
        "The internet is a worldwide network of computers that exchange packets of data.",
        "Shared rules make sure that packets find their way.",
        "The web, mail and many other services run on it.")),
    Topic(("recursion", "a recursive function"), (
        "Recursion solves a problem by solving smaller problems of the same kind.",
        "A function calls itself until the case is simple enough.",
        "Without such an end it would run forever.")),
    Topic(("binary search",), (
        "Binary search finds a value in a sorted list by halving the range again and again.",
        "Each step compares the middle element with the value.",
        "A million entries need only about twenty steps.")),
    Topic(("a hash table", "hash tables"), (
        "A hash table finds values by a number computed from their key.",
        "The number says in which slot to look.",
        "Looking up takes about the same short time for any size.")),
    Topic(("a database", "databases"), (
        "A database stores data so that it can be searched and changed safely.",
        "Programs ask for it with queries.",
        "Transactions keep it consistent when something fails.")),
    Topic(("git", "version control"), (
        "Git keeps the history of a project's files.",
        "Each commit records a state with its author and a message.",
        "Branches let people work side by side and merge later.")),
    Topic(("encryption",), (
        "Encryption turns a text into a form that only the holder of a key can read.",
        "It protects data on disks and on networks.",
        "Losing the key means losing the data.")),
    Topic(("an API", "APIs", "a REST API"), (
        "An API is the set of requests by which one program uses another.",
        "It says what may be asked and how the answer looks.",
        "Web APIs are called over HTTP, often with JSON.")),
    Topic(("JSON", "the JSON format"), (
        "JSON is a simple text format for data, made of objects, lists, strings, numbers, true, false and null.",
        "Nearly every programming language can read and write it.",
        "APIs use it for requests and answers.")),
    Topic(("Python", "the Python language"), (
        "Python is a programming language that is known for being easy to read.",
        "It is used for web services, data and machine learning.",
        "Many libraries exist for it.")),
    Topic(("a compiler", "compilers"), (
        "A compiler translates a program into a form that a machine can run.",
        "It also checks the program for errors.",
        "Good compilers make programs faster.")),
    Topic(("a volcano", "volcanoes"), (
        "A volcano is an opening through which melted rock reaches the surface.",
        "Most lie where plates of the Earth's crust meet.",
        "Ash and lava build its mountain over time.")),
    Topic(("an earthquake", "earthquakes"), (
        "An earthquake is a shaking of the ground when rock under tension suddenly slips.",
        "Most happen where plates of the Earth's crust meet.",
        "Their strength is measured as magnitude.")),
)

_PLAIN = (
    "What is {t}?", "Explain {t}.", "explain {t}", "Tell me about {t}.", "What do you know about {t}?", "Describe {t}.",
    "How does {t} work?", "what's {t}", "Can you explain {t}?", "{t}?", "Explain {t} to me.", "What does {t} mean?",
    "I want to know about {t}.", "Explain {t} in one paragraph.", "Explain {t} in a paragraph.", "Describe {t} in one paragraph.",
    "A paragraph about {t} please.", "Write one paragraph about {t}.", "Summarize {t} in one paragraph.",
    "Summarize {t}.", "Explain {t} in three sentences.",
)
_ONE = (
    "Explain {t} in one sentence.", "What is {t}? One sentence.", "{t} in one sentence", "In one sentence, what is {t}?",
    "Explain {t} briefly.", "Describe {t} in a single sentence.", "Summarize {t} in one sentence.", "Explain {t} in 1 sentence",
    "Briefly: what is {t}?", "Define {t} in one sentence.", "What is {t}, in one sentence?", "one sentence about {t}",
)
_TWO = ("Explain {t} in two sentences.", "{t} in two sentences", "Describe {t} in 2 sentences.", "What is {t}? Two sentences please.")
_BULLETS = (
    "Summarize {t} in {n} bullets.", "Summarise {t} in {n} bullet points.", "Explain {t} in {n} bullets.", "{n} bullets about {t}",
    "Give me {n} bullet points on {t}.", "{t} in {n} bullets", "List {n} facts about {t}.", "Summarize {t} in {n} points.",
    "Describe {t} as {n} bullet points.",
)


def explain(draw: Draw) -> Conversation:
    """One topic in one of its forms; sometimes the system prompt asks for the form."""
    topic = TOPICS[1] if draw.chance(0.03) else draw.frame(TOPICS)
    name = draw.frame(topic.names[:1] + topic.names)
    if draw.chance(0.15):
        name = name.lower()
    one, two, three = topic.sentences
    system = None
    match draw.frame(("plain", "plain", "plain", "one", "one", "two", "bullets", "bullets", "system")):
        case "plain":
            request, answer, form = phrase(draw, _PLAIN, t=name), f"{one} {two} {three}", "paragraph"
        case "one":
            request, answer, form = phrase(draw, _ONE, t=name), one, "one sentence"
        case "two":
            request, answer, form = phrase(draw, _TWO, t=name), f"{one} {two}", "two sentences"
        case "bullets":
            count = draw.frame((2, 3, 3, 3))
            request = phrase(draw, _BULLETS, t=name, n=draw.frame((str(count), ("two", "three")[count - 2])))
            answer, form = "\n".join(f"- {sentence}" for sentence in topic.sentences[:count]), f"{count} bullets"
        case _:
            system = draw.frame(("Answer in one sentence.", "You answer in one sentence.", "Be brief. Answer in one sentence.",
                                 "You are a helpful assistant. Answer in one sentence.", "Keep it to one sentence."))
            request = phrase(draw, ("What is {t}?", "Explain {t}.", "{t}?", "Tell me about {t}."), t=name)
            answer, form = one, "one sentence"
    return Conversation(
        skill=f"topics.{form.replace(' ', '_')}",
        system=system,
        turns=(
            Turn(role="user", content=request),
            Turn(role="assistant", content=answer, reasoning=f"Topic: {topic.names[0]}. Form: {form}."),
        ),
    )
