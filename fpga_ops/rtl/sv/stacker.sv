// Lets a pixel hold several rows of its window: the present row's byte_taps bytes first, behind them what the row before
// had (a pixel's vector is one word then). After an image's last row come `stack` - 1 of padding, which its first rows
// have before them.
module stacker import overlay_pkg::*; #(
  parameter int PIX = 7, CW = 32, COLS = 64, localparam int WIDTH = CW * 8  // COLS: most groups of a row; 0: no stacks
) (
  input  logic clk, start, stop,
  input  layer_t layer,                   // the LOAD, from `start` on
  input  logic in_valid,
  output logic in_ready,
  input  logic [PIX-1:0][WIDTH-1:0] in,
  output logic out_valid,
  input  logic out_ready,
  output logic [PIX-1:0][WIDTH-1:0] out,
  output logic done
);
  logic [31:0] rows_left;                 // of all images
  logic [15:0] word, xg, y;               // word: among those of a group
  logic [PIX-1:0][WIDTH-1:0] earlier;
  logic [WIDTH-1:0] padding;
  wire last_word = word + 16'd1 == layer[F_OUT_WORDS][15:0];
  wire last_xg = last_word && xg + 16'd1 == layer[F_COLS][15:0], last_y = y + 16'd1 == layer[F_ROWS][15:0];
  wire real_row = 32'(y) + layer[F_STACK] <= layer[F_ROWS];
  wire give = out_valid && out_ready;

  assign done = rows_left == 0;
  assign out_valid = !done && (in_valid || !real_row);
  assign in_ready = give && real_row;
  always_comb begin
    for (int c = 0; c < CW; c++) padding[c*8 +: 8] = 32'(c) < layer[F_BYTE_TAPS] ? layer[F_PAD_VALUE][7:0] : 8'd0;
    for (int p = 0; p < PIX; p++) begin
      out[p] = real_row ? in[p] : padding;
      if (layer[F_STACK] != 32'd1)
        out[p] |= (y == 0 ? {CW{layer[F_PAD_VALUE][7:0]}} : earlier[p]) << {layer[F_BYTE_TAPS][7:0], 3'b0};
    end
  end
  always_ff @(posedge clk) begin
    if (give) word <= last_word ? 16'd0 : word + 16'd1;
    if (give && last_word) xg <= last_xg ? 16'd0 : xg + 16'd1;
    if (give && last_xg) begin
      y <= last_y ? 16'd0 : y + 16'd1;
      rows_left <= rows_left - 32'd1;
    end
    if (start) begin
      {word, xg, y} <= '0;
      rows_left <= layer[F_BYTE_STEP] == 0 ? 32'd0 : layer[F_IMAGES] * layer[F_ROWS];
    end
    if (stop) rows_left <= '0;
  end
  if (COLS == 0) begin : none
    assign earlier = '0;
  end else begin : line
    localparam int BITS = $clog2(COLS);
    logic [PIX-1:0][WIDTH-1:0] memory [COLS];
    assign earlier = memory[BITS'(xg)];
    always_ff @(posedge clk) if (give) memory[BITS'(xg)] <= out;
  end
endmodule
