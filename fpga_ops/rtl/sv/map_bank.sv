// One bank of a feature-map memory: a read port of a whole vector, a write port of one of its NH stored words. Data
// come two cycles after the address.
module map_bank #(parameter int CW = 32, NH = 1, DEPTH = 1024, localparam int BITS = $clog2(DEPTH)) (
  input  logic clk,
  input  logic [BITS-1:0] read_address,
  output logic [NH*CW*8-1:0] read_data,
  input  logic [NH-1:0] write,
  input  logic [BITS-1:0] write_address,
  input  logic [CW*8-1:0] write_data
);
  for (genvar h = 0; h < NH; h++) begin : half
    (* ram_style = "ultra" *) logic [CW*8-1:0] memory [DEPTH];
    logic [CW*8-1:0] read;
    always_ff @(posedge clk) begin
      if (write[h]) memory[write_address] <= write_data;
      read <= memory[read_address];
      read_data[h*CW*8 +: CW*8] <= read;
    end
  end
endmodule
