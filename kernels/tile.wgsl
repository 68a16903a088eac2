// what:   a tile of a product a w^T in workgroup memory: the main loop that matmul and conv2d share
//
// 128 invocations, 16 across and 8 down, make 8 ROWS x 64 results. Invocation (tx, ty) owns the rows ty + 8 r and the columns
// tx + 16 c: neighbours across read neighbouring columns, so that no two of them meet in one bank, and all of them share the
// same rows. A step takes 16 elements of the sum as four vectors: per vector, 4 + ROWS loads feed 16 ROWS multiply-adds.

const TILE_N = 64u;
const TILE_M = 8u * ROWS;
// Vectors of four along the sum in one step.
const TILE_Q = 4u;
// Distance of vectors in workgroup memory. The two more let eight invocations that store four vectors of two rows each use
// all banks.
const TILE_STRIDE_A = TILE_M + 2u;
const TILE_STRIDE_W = TILE_N + 2u;

var<workgroup> tile_a: array<vec4<f32>, TILE_Q * TILE_STRIDE_A>;
var<workgroup> tile_w: array<vec4<f32>, TILE_Q * TILE_STRIDE_W>;

// Adds the products of the step in workgroup memory; component c of sums[r] belongs to column tx + 16 c.
fn multiply_tile(tx: u32, ty: u32, sums: ptr<function, array<vec4<f32>, ROWS>>) {
    for (var q = 0u; q < TILE_Q; q++) {
        let w = q * TILE_STRIDE_W + tx;
        let w0 = tile_w[w];
        let w1 = tile_w[w + 16u];
        let w2 = tile_w[w + 32u];
        let w3 = tile_w[w + 48u];
        for (var r = 0u; r < ROWS; r++) {
            let a = tile_a[q * TILE_STRIDE_A + ty + 8u * r];
            (*sums)[r] += vec4<f32>(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
        }
    }
}
