"""Language models behind one small interface: sample decisions, score options.

base.py          the interface: what an engine must offer
transformers.py  in this process (CPU or GPU); attention.py makes it cheap
vllm.py          vLLM, offline
endpoint.py      any OpenAI-compatible server
registry.py      makes any of them by name
ray.py           many of them at work on several machines
"""
