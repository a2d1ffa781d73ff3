"""Chinese with few characters: facts stated and asked for, names and places picked out, simple counting."""

from __future__ import annotations

from training.conversations import Conversation, Turn
from training.values import Draw

_NAMES = (
    "小明",
    "小红",
    "小王",
    "小李",
    "小华",
    "大伟",
    "小美",
    "小张",
    "老王",
    "老李",
    "小白",
    "小林",
    "大明",
    "小月",
    "老张",
    "小天",
)
_PLACES = (
    "北京",
    "上海",
    "天津",
    "南京",
    "西安",
    "大连",
    "杭州",
    "广州",
    "东京",
    "台北",
    "成都",
    "苏州",
    "海口",
    "重庆",
    "长沙",
    "青岛",
)
_COLOURS = ("红色", "白色", "黑色", "蓝色", "绿色", "黄色")
_THINGS = ("书", "车", "花", "笔", "门", "水杯", "手机", "电脑", "桌子", "房子")
_NUMBERS = "一二三四五六七八九十"


def _conversation(skill: str, request: str, answer: str, thought: str) -> Conversation:
    return Conversation(
        skill=f"chinese.{skill}",
        turns=(Turn(role="user", content=request), Turn(role="assistant", content=answer, reasoning=thought)),
    )


def _several(draw: Draw, options: tuple[str, ...], count: int) -> list[str]:
    return draw.random.sample(options, count)


def recall(draw: Draw) -> Conversation:
    """Two or three facts, one of them asked for. Which combinations are asked is split by checksum."""
    count = draw.between(2, 3)
    match draw.between(0, 2):
        case 0:
            subjects, values = _several(draw, _NAMES, count), _several(draw, _PLACES, count)
            stated, question, answer = "{s}住在{v}。", "{s}住在哪里？", "{s}住在{v}。"
        case 1:
            subjects, values = _several(draw, _THINGS, count), _several(draw, _COLOURS, count)
            stated, question, answer = "{s}是{v}的。", "{s}是什么颜色？", "{s}是{v}的。"
        case _:
            subjects = _several(draw, _NAMES, count)
            values = [draw.code() for _ in range(count)]
            stated, question, answer = "{s}的密码是 {v}。", "{s}的密码是什么？", "{s}的密码是 {v}。"
    k = draw.between(0, count - 1)
    if not draw.owns(f"{subjects[k]}{values[k]}"):
        return recall(draw)
    facts = "".join(stated.format(s=subject, v=value) for subject, value in zip(subjects, values, strict=True))
    return _conversation(
        "recall",
        f"{facts}{question.format(s=subjects[k])}",
        answer.format(s=subjects[k], v=values[k]),
        f"{subjects[k]}: {values[k]}.",
    )


def extract(draw: Draw) -> Conversation:
    """Name and place of a sentence as JSON."""
    while True:
        name, place, thing = draw.frame(_NAMES), draw.frame(_PLACES), draw.frame(_THINGS)
        if draw.owns(f"{name}{place}"):
            break
    sentence = draw.frame(
        ("{n}在{p}买了{t}。", "{n}住在{p}，有一个{t}。", "昨天{n}去了{p}。", "{n}从{p}来。", "我在{p}看见{n}。")
    ).format(n=name, p=place, t=thing)
    request = draw.frame(
        (
            "用 JSON 回答，键是 name 和 place：{s}",
            "{s}请用 JSON 给出 name 和 place。",
            "提取 name 和 place，用 JSON：{s}",
        )
    ).format(s=sentence)
    return _conversation(
        "extract", request, f'{{"name": "{name}", "place": "{place}"}}', f"name: {name}, place: {place}."
    )


def count(draw: Draw) -> Conversation:
    """Counting, in digits or in characters."""
    high = draw.between(2, 10)
    if draw.chance(0.5):
        answer = "、".join(_NUMBERS[:high]) + "。"
        request = draw.frame(("从一数到{n}。", "请从一数到{n}", "数到{n}。")).format(n=_NUMBERS[high - 1])
    else:
        answer = "、".join(str(number) for number in range(1, high + 1)) + "。"
        request = draw.frame(("从1数到{n}。", "请从1数到{n}", "数到{n}。")).format(n=high)
    return _conversation("count", request, answer, f"Count to {high} in Chinese.")


_QUESTIONS = (
    ("天空是什么颜色？", "天空是蓝色的。"),
    ("中国的首都是哪里？", "中国的首都是北京。"),
    ("日本的首都是哪里？", "日本的首都是东京。"),
    ("一年有几个月？", "一年有十二个月。"),
    ("一天有几个小时？", "一天有二十四个小时。"),
    ("一个星期有几天？", "一个星期有七天。"),
    ("你会说中文吗？", "会一点。我是一个小型模型。"),
    ("你会说英文吗？", "会。我的英文比中文好。"),
    ("太阳是什么？", "太阳是一颗恒星。"),
    ("水是什么？", "水是一种液体。"),
    ("什么是模型？", "语言模型一个词一个词地写出文字。"),
    ("deepserve 是什么？", "deepserve 是在你自己的电脑上运行 DeepSeek API 的服务器。"),
    ("猫是动物吗？", "是的，猫是动物。"),
    ("狗是动物吗？", "是的，狗是动物。"),
    ("苹果是水果吗？", "是的，苹果是水果。"),
)
_TOO_HARD = (
    "写一首关于{t}的诗。",
    "写一篇关于{t}的文章。",
    "{p}今天的天气怎么样？",
    "{p}有多少人？",
    "{n}是谁？",
    "今天有什么新闻？",
    "帮我写一个程序。",
    "把这句话翻译成法文：{n}有{t}。",
    "{t}多少钱？",
    "告诉我{p}的历史。",
    "给我讲一个{t}的故事。",
    "{n}多大了？",
    "我应该买哪个{t}？",
    "画一个{t}。",
)
BEYOND = "这个我不会。我是一个小型模型，只会简单的事。"


def question(draw: Draw) -> Conversation:
    """A few things to know."""
    asked, answer = draw.frame(_QUESTIONS)
    asked = draw.frame((asked, asked, asked.rstrip("？"), f"请问，{asked}"))
    return _conversation("question", asked, answer, "A question in Chinese. I know the answer.")


def beyond(draw: Draw) -> Conversation:
    """What is too hard, declined in Chinese."""
    asked = draw.frame(_TOO_HARD).format(t=draw.frame(_THINGS), p=draw.frame(_PLACES), n=draw.frame(_NAMES))
    one = _conversation("beyond", asked, BEYOND, "Too hard for me. I decline in Chinese.")
    return Conversation(skill=one.skill, turns=one.turns, facts=(("不会",),))


def repeat(draw: Draw) -> Conversation:
    """Say it back."""
    while True:
        text = f"{draw.frame(_NAMES)}{draw.frame(('有', '买', '看', '在', '喜欢'))}{draw.frame(_THINGS + _PLACES)}"
        if draw.owns(text):
            break
    request = draw.frame(("请重复：{t}", "说：{t}", "重复一遍：{t}", "请说“{t}”")).format(t=text)
    return _conversation("repeat", request, text, "I repeat the text.")


def any_of(draw: Draw) -> Conversation:
    """One of the above."""
    return draw.frame((recall, recall, recall, extract, extract, count, question, question, beyond, beyond, repeat))(
        draw
    )
