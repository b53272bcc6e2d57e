// The layer descriptor and what the blocks share. The order of the fields is RTL_FIELDS of fpga_ops/overlay/descriptor.py
// (a test compares the two); kernels/fpga/overlay.h says what most mean. In the place of what counts iterations of the
// OpenCL loops: in_pitch and out_pitch, pixels from a row of the source, or of the result, to the next; wrap, the width
// at which a group of pixels goes on in the next row, or 0; stack, the rows of the image that a pixel of the source holds.
package overlay_pkg;
  // 64 little-endian words; word i of memory is d[i].
  typedef logic [63:0][31:0] layer_t;

  typedef enum int {
    F_OP, F_GROUPS, F_IMAGES, F_ROWS, F_COLS, F_OUTPUTS, F_TAPS_Y, F_TAPS_X, F_STRIDE_Y, F_STRIDE_X, F_PAD_Y,
    F_PAD_X, F_PAD_VALUE, F_TAP_STEP, F_IN_MEM, F_IN_BASE, F_IN_STEP, F_IN_H, F_IN_W, F_STACK, F_IN_VECS,
    F_RED_VECS, F_GROUP_VECS, F_ACTS, F_PERIOD, F_IN_PITCH, F_OUT_PITCH, F_WRAP, F_OUT_MEM, F_OUT_BASE,
    F_OUT_STEP, F_OUT_VECS, F_OUT_WORDS, F_ADD, F_SKIP_BASE, F_SKIP_STEP, F_W_BASE, F_W_WORDS, F_PARTS,
    F_PART_ACTS, F_LAST_ACTS, F_PART_WORDS, F_LAST_WORDS, F_NEXT_WORDS, F_PAR_BASE, F_INCREMENT, F_LOW, F_HIGH,
    F_ADD_FIRST, F_ADD_SECOND, F_ADD_OFFSET_LOW, F_ADD_OFFSET_HIGH, F_ADD_SHIFT, F_ADD_TIE, F_ADD_INCREMENT,
    F_ADD_LOW, F_ADD_HIGH,
    F_ROW_BYTES, F_BYTE_STEP, F_BYTE_TAPS, F_BYTE_PAD, F_LOAD_WORDS, F_LOAD_SIZE
  } field_t;
  localparam int F_CHECKSUM = 63;

  typedef enum logic [2:0] {OP_END, OP_LOAD, OP_CONV, OP_MAX, OP_SUM, OP_STORE} op_t;

  // How products are made (parameter FORM): as written, in pairs on a DSP48E2, by threes on a DSP58.
  localparam int PLAIN = 0, DSP48E2 = 1, DSP58 = 2;

  localparam int PORT = 64;   // bytes of an external-memory port, and of a beat
  localparam int BURST = 16;  // most beats that a reader asks for at once

  // Cycles from the operands to the dot product of VEC pairs of them.
  function automatic int latency(input int form, input int vec);
    latency = form == PLAIN ? 1 : form == DSP48E2 ? 3 + 3 + 1 + $clog2((vec + 3) / 4) : 2 + (vec + 2) / 3;
  endfunction

  // The common end of both rules, out = clamp(round(v / 2^shift) + increment), in two steps, each a cycle: a byte is a
  // field of v, so the shift narrows as it goes. First by 0, 16, 32 or 48 to 27 bits; what does not fit is far beyond the
  // bounds either way. `tie` is 0, or 1 + the lowest of the bits below `shift` that are all zero at a tie, which then goes
  // to even. Between them: {beyond, negative, tied, the 27 bits}.
  localparam int COARSE = 30;
  function automatic logic [COARSE-1:0] coarse(input logic [63:0] v, input logic [5:0] shift, input logic [7:0] tie);
    logic signed [63:0] far;
    logic [63:0] fraction;
    logic beyond, tied;
    far = $signed(v) >>> {shift[5:4], 4'b0};
    fraction = (64'd1 << shift) - (64'd1 << (tie[5:0] - 6'd1));
    beyond = !(&far[63:26]) && (|far[63:26]);
    tied = tie != 0 && (v & fraction) == 0;
    coarse = {beyond, v[63], tied, far[26:0]};
  endfunction
  function automatic logic [7:0] fine(
    input logic [COARSE-1:0] from, input logic [3:0] shift, input logic increment, input logic [7:0] low,
    input logic [7:0] high
  );
    logic signed [26:0] near;
    logic signed [11:0] y;
    near = $signed(from[26:0]) >>> shift;
    if (from[29]) y = from[28] ? -12'sd1024 : 12'sd1022;
    else if (near < -27'sd1024) y = -12'sd1024;
    else if (near > 27'sd1022) y = 12'sd1022;
    else y = near[11:0];
    if (from[27]) y[0] = 1'b0;
    y = y + {11'b0, increment};
    fine = y < $signed({4'b0, low}) ? low : y > $signed({4'b0, high}) ? high : y[7:0];
  endfunction
endpackage
