// All feature maps: two memories of PIX banks, the sender that reads windows from them and the receiver that writes
// results to them. A layer's reads start when all results before it are stored, so no other order is needed.
module maps import overlay_pkg::*; #(
  parameter int PIX = 7, CW = 32, NH = 1, WORDS = 1024, MUL_BITS = 31, ACT_DEPTH = 16,
  localparam int BITS = $clog2(WORDS), BANK = PIX > 1 ? $clog2(PIX) : 1, VECTOR = NH * CW * 8, WORD = PIX * CW * 8
) (
  input  logic clk, reset,
  input  logic [1:0] layer_valid,         // sender's, receiver's
  input  layer_t [1:0] layer,
  output logic [1:0] layer_pop,
  input  logic image_valid,
  input  logic [WORD-1:0] image_word,
  output logic image_pop,
  input  logic result_valid,
  input  logic [WORD-1:0] result_word,
  output logic result_pop,
  output logic act_valid,
  output logic [PIX*VECTOR-1:0] act,
  input  logic act_pop,
  output logic store_valid,
  output logic [PIX*VECTOR-1:0] store_word,
  input  logic store_pop,
  input  logic stored,
  output logic layer_done,
  output logic ending,
  output logic [15:0] act_count
);
  localparam int UNDER_WAY = 6;           // cycles from a send to the queue
  logic in_mem, store, read, clear_to_run, skip_read, skip_mem, unused_act_full, unused_store_full;
  logic [7:0] pad_value, sent, received;
  logic [PIX-1:0][BITS-1:0] address;
  logic [PIX-1:0][BANK-1:0] bank;
  logic [PIX-1:0] in_map;
  logic [PIX-1:0][BITS-1:0] skip_address, write_address;
  logic [1:0][PIX-1:0][NH-1:0] write;
  logic [WORD-1:0] write_data;
  logic [1:0][PIX-1:0][VECTOR-1:0] data;
  logic [PIX-1:0][VECTOR-1:0] from_in, act_word;
  logic [15:0] store_count;
  typedef struct packed {
    logic valid;
    logic [PIX-1:0][BANK-1:0] bank;
    logic [PIX-1:0] in_map;
  } tag_t;
  tag_t [2:0] tag;                        // with the data that the banks return
  logic act_push;

  // layers begun by the sender and finished by the receiver: the sender runs when it is one ahead, a LOAD when the
  // sender has come to it
  assign clear_to_run = sent - received == 8'd1;
  wire room = (store ? store_count : act_count) + 16'(UNDER_WAY) < 16'(ACT_DEPTH);

  sender #(.PIX(PIX), .BITS(BITS)) sends (
    .clk, .reset, .layer_valid(layer_valid[0] && !tag[0].valid && !tag[1].valid && !tag[2].valid && !act_push),
    .next_layer(layer[0]), .layer_pop(layer_pop[0]), .clear_to_run, .room, .in_mem, .store, .pad_value, .read, .address,
    .bank, .in_map
  );
  receiver #(.PIX(PIX), .CW(CW), .NH(NH), .BITS(BITS), .MUL_BITS(MUL_BITS)) receives (
    .clk, .reset, .layer_valid(layer_valid[1]), .next_layer(layer[1]), .layer_pop(layer_pop[1]),
    .sender_is_here(sent != received), .stored, .image_valid, .image_word, .image_pop, .result_valid, .result_word,
    .result_pop, .skip_read, .skip_mem, .skip_address, .skip_data(data[skip_mem]), .write, .write_address, .write_data,
    .layer_done, .ending
  );
  for (genvar m = 0; m < 2; m++) begin : memory
    for (genvar b = 0; b < PIX; b++) begin : banks
      wire skips = skip_read && skip_mem == (m != 0);
      map_bank #(.CW(CW), .NH(NH), .DEPTH(WORDS)) one (
        .clk, .read_address(skips ? skip_address[b] : address[b]), .read_data(data[m][b]), .write(write[m][b]),
        .write_address(write_address[b]), .write_data(write_data[b*CW*8 +: CW*8])
      );
    end
  end
  always_ff @(posedge clk) begin
    if (layer_pop[0]) sent <= sent + 8'd1;
    if (layer_done) received <= received + 8'd1;
    tag[0].valid <= read;
    tag[0].bank <= bank;
    tag[0].in_map <= in_map;
    for (int i = 1; i < 3; i++) tag[i] <= tag[i-1];
    from_in <= data[in_mem];
    act_push <= tag[2].valid;
    for (int p = 0; p < PIX; p++) begin
      act_word[p] <= {NH*CW{pad_value}};
      for (int b = 0; b < PIX; b++) if (tag[2].in_map[p] && tag[2].bank[p] == BANK'(b)) act_word[p] <= from_in[b];
    end
    if (reset) begin
      sent <= '0;
      received <= '0;
      for (int i = 0; i < 3; i++) tag[i].valid <= 1'b0;
      act_push <= 1'b0;
    end
  end
  fifo #(.WIDTH(PIX*VECTOR), .DEPTH(ACT_DEPTH)) acts (
    .clk, .reset, .push(act_push && !store), .in(act_word), .full(unused_act_full), .valid(act_valid), .out(act),
    .pop(act_pop), .count(act_count)
  );
  fifo #(.WIDTH(PIX*VECTOR), .DEPTH(ACT_DEPTH)) stores (
    .clk, .reset, .push(act_push && store), .in(act_word), .full(unused_store_full), .valid(store_valid),
    .out(store_word), .pop(store_pop), .count(store_count)
  );
endmodule
