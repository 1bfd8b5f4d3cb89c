"""Language models behind one small interface: sample decisions, score options.

base.py          the interface: what an engine must offer, and how to add one
registry.py      finds engines by name in this folder, makes them
transformers.py  in this process (CPU or GPU); attention.py makes it cheap, label_logits.py fine
vllm.py          vLLM, offline
openai.py        any OpenAI-compatible server
ray.py           many of them at work on several machines
"""
