"""String formats of JSON Schema that we hold to, as regular expressions.

Each follows the document named beside it. A format that is not here says nothing that is checked: an annotation.
The expressions use only what a linear engine can do (no look-around, no references back), and match whole strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_HEX: Final = "[0-9a-fA-F]"
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rf"{_OCTET}(?:\.{_OCTET}){{3}}"


def _ipv6() -> str:
    """RFC 4291, section 2.2, as the grammar of RFC 3986, appendix A: `::` may stand once, for at least one group."""
    group = f"{_HEX}{{1,4}}"
    last_two = f"(?:{group}:{group}|{_IPV4})"
    forms = [f"(?:{group}:){{6}}{last_two}", f"::(?:{group}:){{5}}{last_two}"]
    for before in range(6):
        ahead = f"(?:(?:{group}:){{0,{before}}}{group})?"
        after = 4 - before
        forms.append(f"{ahead}::" + (f"(?:{group}:){{{after}}}{last_two}" if after > 0 else ""))
        if after == 0:
            forms[-1] = f"{ahead}::{last_two}"
        elif after < 0:
            forms[-1] = f"{ahead}::{group}"
    forms.append(f"(?:(?:{group}:){{0,6}}{group})?::")
    return "|".join(f"(?:{form})" for form in forms)


_IPV6: Final = _ipv6()

_LEAP_YEAR: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE: Final = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    f"02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
# A leap second is the last of a day in UTC; offsets other than zero are left out.
_TIME: Final = (
    r"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])|"
    r"23:59:60(?:\.[0-9]+)?(?:[zZ]|[+-]00:00))"
)

_LETTER: Final = "[a-zA-Z0-9]"
_INNER: Final = "[a-zA-Z0-9-]"
# RFC 5891, section 4.2.3.1, reserves hyphens in the third and fourth place.
_LABEL: Final = (
    f"(?:{_LETTER}(?:{_INNER}?{_LETTER})?|{_LETTER}{_INNER}{_INNER}{_LETTER}|"
    f"{_LETTER}{_INNER}(?:{_LETTER}{_INNER}|-{_LETTER}){_INNER}{{0,58}}{_LETTER})"
)
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"

_ATOM: Final = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"

_ESCAPED: Final = f"%{_HEX}{_HEX}"
_SEGMENT_CHARACTER: Final = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_ESCAPED})"
_AUTHORITY: Final = (
    rf"(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|{_ESCAPED})*@)?"
    rf"(?:\[(?:{_IPV6}|[vV]{_HEX}+\.[a-zA-Z0-9._~!$&'()*+,;=:-]+)\]|(?:[a-zA-Z0-9._~!$&'()*+,;=-]|{_ESCAPED})*)"
    r"(?::[0-9]*)?"
)
_PATH_AFTER_AUTHORITY: Final = f"(?:/{_SEGMENT_CHARACTER}*)*"
_PATH: Final = f"{_SEGMENT_CHARACTER}+{_PATH_AFTER_AUTHORITY}"
_FIRST_WITHOUT_COLON: Final = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|{_ESCAPED})+{_PATH_AFTER_AUTHORITY}"
_QUERY_AND_FRAGMENT: Final = rf"(?:\?(?:{_SEGMENT_CHARACTER}|[/?])*)?(?:#(?:{_SEGMENT_CHARACTER}|[/?])*)?"
_HIERARCHY: Final = f"//{_AUTHORITY}{_PATH_AFTER_AUTHORITY}|/(?:{_PATH})?"
_URI: Final = f"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{_HIERARCHY}|(?:{_PATH})?){_QUERY_AND_FRAGMENT}"
_URI_REFERENCE: Final = f"(?:{_URI}|(?:{_HIERARCHY}|(?:{_FIRST_WITHOUT_COLON})?){_QUERY_AND_FRAGMENT})"

_POINTER: Final = "(?:/(?:[^~/]|~[01])*)*"

_VARIABLE: Final = rf"(?:[a-zA-Z0-9_]|{_ESCAPED})(?:\.?(?:[a-zA-Z0-9_]|{_ESCAPED}))*(?::[1-9][0-9]{{0,3}}|\*)?"
_TEMPLATE_TEXT: Final = r"[!#$&()*+,./0-9:;=?@A-Z\[\]_a-z~\u00A0-\uD7FF\uF900-\uFDCF\uFDF0-\uFFEF-]" rf"|{_ESCAPED}"

_MATCH: Final[Mapping[str, tuple[str, ...]]] = {
    "date": (_DATE,),  # RFC 3339, section 5.6
    "time": (_TIME,),
    "date-time": (f"{_DATE}[tT]{_TIME}",),
    "duration": (  # RFC 3339, appendix A
        "P(?:[0-9]+W|(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)"
        "(?:T(?:[0-9]+S|[0-9]+M(?:[0-9]+S)?|[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?))?"
        "|T(?:[0-9]+S|[0-9]+M(?:[0-9]+S)?|[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?))",
    ),
    # RFC 5321, section 4.1.2, without quoted names before the @; lengths of section 4.5.3.1.
    "email": (rf"{_ATOM}(?:\.{_ATOM})*@(?:{_HOST}|\[{_IPV4}\]|\[IPv6:(?:{_IPV6})\])", "[^@]{1,64}@.{1,253}"),
    "hostname": (_HOST, ".{1,253}"),  # RFC 1123, section 2.1
    "ipv4": (_IPV4,),  # RFC 2673, section 3.2
    "ipv6": (_IPV6,),
    "uri": (_URI,),  # RFC 3986
    "uri-reference": (_URI_REFERENCE,),
    # RFC 6570, section 2
    "uri-template": (rf"(?:{_TEMPLATE_TEXT}|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*",),
    "uuid": (f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",),  # RFC 4122
    "json-pointer": (_POINTER,),  # RFC 6901
    "relative-json-pointer": (f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",),
}

FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(f"^(?:{expression})$" for expression in expressions) for name, expressions in _MATCH.items()
}
"""Format -> expressions, all of which must match."""
