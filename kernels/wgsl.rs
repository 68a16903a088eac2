//! What the WGSL lowerings of all ops share.
