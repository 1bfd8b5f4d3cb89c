"""A small Hub for loopback, air-gapped labs and tests, spoken to by the unmodified clients.

    store.py     accounts, tokens, repository records (SQLite) and where each repository lies
    records.py   what a record holds, which names are good
    folders.py   what lies in the data folder, told from what the records say
    disk.py      files written whole, durably, for nobody else; what a full disk says
    history.py   a repository's commits, trees and references (bare git, through libgit2)
    trees.py     the files of a commit: change some, list them, name them safely
    drafts.py    the objects of a commit in the making, published at once
    objects.py   large files by SHA-256: receive, prove, send in ranges
    uploads.py   how their bodies come past the web server's copies
    xet.py       accepts uploads of clients that speak Xet and turns them into large files
    results.py   evaluation results of models, leaderboards of datasets
    collections.py  lists of repositories that belong together: dataset and models of a release
    copies.py    copies between repositories; rewriting.py: what a history can lose
    people.py    who users are; weights.py: what files of a model's weights hold
    clones.py    git clone, read only
    grants.py    who may read gated repositories
    not_here.py  what clients ask for and is not there
    access.py    who may read and write, and the errors that the clients understand
    mounted.py   the path of a proxy below which this server is shown
    addresses.py decodes addresses, of which an encoded slash is part
    routing.py   from an address to a repository and its commit; times, pages of rows
    hosts.py     which names this server answers to
    turns.py     whose turn it is: costly requests wait for a slot, writes for their repository
    foreign_json.py  JSON of strangers: what can be stored and sent on
    foreign_yaml.py  YAML of strangers, bounded before anything is built
    cards.py     the YAML header of cards
    derived.py   what listings need of files, worked out once and kept
    api_*.py     the HTTP surface, app.py puts it together, pages.py the web pages
    preview.py   the first rows of Parquet files, read in a process of their own
    proof.py     whether a repository's folder is whole; maintenance.py: check and repair
    backup.py    a copy of it all while the server runs
    uvicorn_internals.py  all that depends on the inside of the web server

Every change becomes visible by exactly one atomic step (a git reference or a SQLite transaction)
after everything that it refers to is on the disk: a kill at any moment leaves the old state.
"""
