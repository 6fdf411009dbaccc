"""`cells.py N FILE`: N registers in Verilog whose next values depend on others, and a memory that they write."""

import sys
from pathlib import Path

n = int(sys.argv[1])
Path(sys.argv[2]).write_text(f"""module cell_({"input clk, input [31:0] a, b, output reg [31:0] q"});
  parameter SEED = 1;
  wire [31:0] mix = (a ^ {{b[15:0], b[31:16]}}) + (q << 3);
  initial q = SEED * 32'h9e3779b9;
  always @(posedge clk) if (mix[1:0] != 0) q <= mix;
endmodule
module top;
  reg clk = 0;
  wire [31:0] q [0:{n}];
  reg [63:0] memory [0:262143];
  integer k;
  genvar i;
  assign q[0] = q[{n}];
  generate for (i = 0; i < {n}; i = i + 1) begin : g
    cell_ #(.SEED(i + 1)) c(clk, q[i], q[(i * 7) % {n} + 1], q[i + 1]);
  end endgenerate
  initial begin
    for (k = 0; k < 60; k = k + 1) begin
      #1 clk = 1;
      #1 clk = 0;
      memory[q[k][17:0]] = {{q[1], q[2]}};
    end
    $finish;
  end
endmodule
""")
