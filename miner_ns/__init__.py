"""MINER: images and volumes as thousands of tiny networks that stop training by themselves (arXiv 2202.03532)."""
