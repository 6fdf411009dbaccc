"""`spheres.py N FILE`: a scene of POV-Ray with N mirroring spheres."""

import sys
from pathlib import Path

Path(sys.argv[2]).write_text(f"""\
camera {{ location <0, 4, -12> look_at 0 }}
light_source {{ <10, 20, -20> rgb 1 }}
plane {{ y, -2 pigment {{ checker rgb 1 rgb .3 }} }}
#declare R = seed(1);
#declare i = 0;
#while (i < {int(sys.argv[1])})
sphere {{ <rand(R) * 12 - 6, rand(R) * 6 - 2, rand(R) * 8> rand(R) * .3
  pigment {{ rgb <rand(R), rand(R), rand(R)> }} finish {{ reflection .2 }} }}
#declare i = i + 1;
#end
""")
