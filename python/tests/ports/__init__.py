"""Six ports of DIF-SR in the styles that people write them in; `glue` holds them to the cases.

`fused` packs query, key and value into one layer, in the manner of nanoGPT; `encoder` names its modules as Hugging Face's
BERT does; `functional` keeps stacked tensors in one dictionary and computes with einsum. `nested` is a module as Lightning
has them, with its own LayerNorm and dropout by functions; `flat` is one vector of all parameters; `recbole_style` is a model
of RecBole. They share no code with the peer.
"""
