"""Parsers of hardware tools: text in, values out. Each raises `ParseError` and nothing else.

What a parser does not understand it keeps and reports (`notes`), and it never guesses: damaged text is refused.
"""
