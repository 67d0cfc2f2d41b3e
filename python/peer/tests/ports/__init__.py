"""Three ports of DIF-SR in the styles that people write them in, each with the glue that holds it to a case today.

`fused` packs query, key and value into one layer, in the manner of nanoGPT; `encoder` names its modules as Hugging Face's BERT
does; `functional` keeps stacked tensors in one dictionary and computes with einsum. They share no code with the peer.
"""
