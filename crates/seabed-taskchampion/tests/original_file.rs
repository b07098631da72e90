//! Databases of the original: read whole, refused when broken, and written again.
