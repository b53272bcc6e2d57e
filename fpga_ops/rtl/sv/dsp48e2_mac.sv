// One DSP48E2 with its registers: p = pcin + (a + d) * b, three cycles from a, b and d, one from pcin. Inputs are
// signed. FIRST has no pcin; `pcout` is p on the cascade's own wires. With VENDOR defined it is the primitive itself, else
// what it computes.
module dsp48e2_mac #(parameter bit FIRST = 1'b0) (
  input  logic clk,
  input  logic [26:0] a, d,
  input  logic [17:0] b,
  input  logic [47:0] pcin,
  output logic [47:0] p, pcout
);
`ifdef VENDOR
  DSP48E2 #(
    .AMULTSEL("AD"), .A_INPUT("DIRECT"), .BMULTSEL("B"), .B_INPUT("DIRECT"), .PREADDINSEL("A"), .USE_MULT("MULTIPLY"),
    .USE_SIMD("ONE48"), .ACASCREG(0), .ADREG(1), .ALUMODEREG(0), .AREG(0), .BCASCREG(1), .BREG(1), .CARRYINREG(0),
    .CARRYINSELREG(0), .CREG(0), .DREG(0), .INMODEREG(0), .MREG(1), .OPMODEREG(0), .PREG(1)
  ) block (
    .CLK(clk), .A({3'b0, a}), .D(d), .B(b), .C(48'b0), .PCIN(pcin), .PCOUT(pcout), .P(p), .ALUMODE(4'b0000),
    .INMODE(5'b00100), .OPMODE(FIRST ? 9'b00_000_01_01 : 9'b00_001_01_01), .CARRYIN(1'b0),
    .CARRYINSEL(3'b000), .CEA1(1'b0), .CEA2(1'b0), .CEAD(1'b1), .CEALUMODE(1'b0), .CEB1(1'b0), .CEB2(1'b1), .CEC(1'b0), .CECARRYIN(1'b0), .CECTRL(1'b0), .CED(1'b0),
    .CEINMODE(1'b0), .CEM(1'b1), .CEP(1'b1), .RSTA(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTB(1'b0),
    .RSTC(1'b0), .RSTCTRL(1'b0), .RSTD(1'b0), .RSTINMODE(1'b0), .RSTM(1'b0), .RSTP(1'b0)
  );
`else
  logic signed [26:0] ad;
  logic signed [17:0] b1;
  logic signed [44:0] m;
  always_ff @(posedge clk) begin
    ad <= $signed(a) + $signed(d);
    b1 <= $signed(b);
    m <= ad * b1;
    p <= (FIRST ? 48'd0 : pcin) + {{3{m[44]}}, m};
  end
  assign pcout = p;
`endif
endmodule
