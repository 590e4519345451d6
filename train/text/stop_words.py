"""English words that say little about a video: function words, and verbs that help other verbs."""

from __future__ import annotations

_PRONOUNS = """
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one oneself who whom whose which what this that these those
"""
_DETERMINERS = "a an the some any each every both few more most other another such no own same all many much several"
_PREPOSITIONS = """
    of at by for with about against between into through during before after above below to from up down in out on off
    over under
"""
_CONJUNCTIONS = "and but if or because as until while than so nor though although whether when where why how"
_HELPERS = """
    be am is are was were been being have has had having do does did doing done can could may might must shall should
    will would ought
"""
_ADVERBS = """
    again further then once here there not only too very just now also yet ever never s t d ll m re ve o y don ain aren
    couldn didn doesn hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn
"""

STOP_WORDS = frozenset(" ".join([_PRONOUNS, _DETERMINERS, _PREPOSITIONS, _CONJUNCTIONS, _HELPERS, _ADVERBS]).split())
