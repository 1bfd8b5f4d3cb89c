"""Build, release, train and score LLM user simulators from real recommender feedback.

The five subpackages are the folders at the top of the repository; here they are links, so that
Python, editors and type checkers find `usermirrorer.builders` in a plain checkout.
"""
