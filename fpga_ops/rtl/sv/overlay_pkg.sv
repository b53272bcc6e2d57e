// The layer descriptor and what the blocks share. The order of the fields is FIELDS of fpga_ops/overlay/descriptor.py
// (a test compares the two); kernels/fpga/overlay.h says what each means. `lag`, `trips` and `array_trips` count
// iterations of the OpenCL loops; here blocks wait for each other's data and nobody needs them.
package overlay_pkg;
  // 64 little-endian words; word i of memory is d[i].
  typedef logic [63:0][31:0] layer_t;

  typedef enum int {
    F_OP, F_GROUPS, F_IMAGES, F_ROWS, F_COLS, F_OUTPUTS, F_TAPS_Y, F_TAPS_X, F_STRIDE_Y, F_STRIDE_X, F_PAD_Y,
    F_PAD_X, F_PAD_VALUE, F_TAP_STEP, F_IN_MEM, F_IN_BASE, F_IN_STEP, F_IN_H, F_IN_W, F_IN_COLS, F_IN_VECS,
    F_RED_VECS, F_GROUP_VECS, F_ACTS, F_PERIOD, F_LAG, F_TRIPS, F_ARRAY_TRIPS, F_OUT_MEM, F_OUT_BASE,
    F_OUT_STEP, F_OUT_VECS, F_OUT_WORDS, F_ADD, F_SKIP_BASE, F_SKIP_STEP, F_W_BASE, F_W_WORDS, F_PARTS,
    F_PART_ACTS, F_LAST_ACTS, F_PART_WORDS, F_LAST_WORDS, F_NEXT_WORDS, F_PAR_BASE, F_PRE_SHIFT, F_LOW, F_HIGH,
    F_ADD_FIRST, F_ADD_SECOND, F_ADD_OFFSET, F_ADD_SHIFT, F_ADD_LOW, F_ADD_HIGH,
    F_ROW_BYTES, F_BYTE_STEP, F_BYTE_TAPS, F_BYTE_PAD, F_LOAD_WORDS, F_LOAD_SIZE
  } field_t;
  localparam int F_CHECKSUM = 63;

  typedef enum logic [2:0] {OP_END, OP_LOAD, OP_CONV, OP_MAX, OP_SUM, OP_STORE} op_t;

  // How products are made (parameter FORM): as written, in pairs on a DSP48E2, by threes on a DSP58.
  localparam int PLAIN = 0, DSP48E2 = 1, DSP58 = 2;

  localparam int PORT = 64;   // bytes of an external-memory port, and of a beat
  localparam int BURST = 16;  // most beats that a reader asks for at once

  // Cycles from the operands to the dot product of VEC pairs of them.
  function automatic int latency(int form, int vec);
    if (form == PLAIN) return 1;
    if (form == DSP48E2) return 3 + 3 + 1 + $clog2((vec + 3) / 4);
    return 2 + (vec + 2) / 3;
  endfunction
endpackage
