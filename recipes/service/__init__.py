"""A simulator as a service: an API, a page for people, and the same page as a static Space.

batches.py    one engine, many who ask: a bounded queue, answered in batches
bodies.py     limits of what is read of a request
errors.py     errors in OpenAI's form
choosing.py   /v1/choose
chat.py       /v1/chat/completions and /v1/models, as clients of OpenAI's API expect them
pages.py      the page, its parts, and the description of the API
app.py        puts it together
space.py      the page as a static Space
commands.py   `usermirrorer serve`
page/         index.html, app.js, style.css
"""
