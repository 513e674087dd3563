import numpy as np
from .tracer import *
from .tracer import element_of, write_scalar, write_region, current_element, recorder_of, lift, copied, view_of, broadcast
from ..tape import View, ARRAY
def getitem(a, index):
    v=a.value[index]
    if type(v) is np.ndarray: return ArrayTracer(a.rec,v,a.cell)
    idx=index if isinstance(index,tuple) else (index,)
    return element_of(a,v,tuple(int(i) for i in idx))
def setitem(a,index,value):
    rec=a.rec
    if a.cell.is_argument:
        st=a.cell.storage
        whole=ArrayTracer(rec,st,a.cell); c=copied(whole)
        a.cell.buffer=c.cell.buffer; a.cell.is_argument=False
        if rec.values is not None: rec.cells[a.cell.buffer]=a.cell
    t=a.value[index if index is Ellipsis else (index+(Ellipsis,) if isinstance(index,tuple) else (index,Ellipsis))]
    tv=ArrayTracer(rec,t,a.cell).view
    v=lift(rec,value)
    if t.ndim==0:
        e=ARRAY+rec.buffers[tv.buffer].base+tv.offset
        s=current_element(v) if isinstance(v,ScalarTracer) else rec.constant(float(v))
        write_scalar(rec,e,s)
    else:
        write_region(rec,tv,broadcast(view_of(rec,v),t.shape))
    t[...]=value_of(v)
