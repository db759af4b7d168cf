"""A local stack, all of it on 127.0.0.1 and none of it in a container: what a lab or a cluster would have.

`python -m infra.stack up`, `down`, `status`, `restart NAME`, `kill NAME`.
"""
