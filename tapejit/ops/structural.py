from dataclasses import dataclass
@dataclass(frozen=True)
class Structural:
    name: str
    active: tuple | None
    vjp: object = None
    jvp: object = None
    linear: bool = False
    def is_active(self, i): return self.active is None or i in self.active
A={"copy":None,"sum":None,"concatenate":None,"write":(0,1),"scatter_write":(0,2),"gather":(0,),"scatter_add":(0,),"normalise_index":(),"max":None,"min":None,"argmax":(),"argmin":(),"argsort":(),"prod":None,"cumsum":None,"cumprod":None,"matmul":None,"solve":None,"inv":None,"logabsdet":None,"detsign":(),"cholesky":None}
STRUCTURAL={k:Structural(k,v) for k,v in A.items()}
