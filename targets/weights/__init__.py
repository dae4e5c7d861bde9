"""The weights that come along: safetensors files and the manifest that vouches for them; all
trained with `gatebench train`."""
