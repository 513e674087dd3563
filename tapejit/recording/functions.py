import numpy as np
from .tracer import *
from .tracer import record, recorder_of, lift, as_view, new_array, broadcast, view_of, new_result
from ..tape import View
def sum(x, axis=None, keepdims=False):
    rec=recorder_of(x)
    if x.ndim==0: return x
    ax=tuple(range(x.ndim)) if axis is None else tuple(a%x.ndim for a in (axis if isinstance(axis,tuple) else (axis,)))
    r=record(rec,"sum",[x],np.sum(x.value,axis=ax),(ax,))
    if keepdims: r=r.reshape(np.sum(x.value,axis=ax,keepdims=True).shape)
    return r
def reshape(x,*shape):
    if len(shape)==1 and isinstance(shape[0],tuple): shape=shape[0]
    if x.ndim==0: return broadcast_to(x,(1,)*len(shape)) if len(shape) else x
    return as_view(x,lambda a:a.reshape(shape))
def broadcast_to(x,shape):
    rec=recorder_of(x)
    if x.ndim==0:
        r=new_array(rec,np.full(shape,x.value)); rec.call("copy",(broadcast(x.view,shape),),r.view); return r
    return as_view(x,lambda a:np.broadcast_to(a,shape))
def zeros_like(x):
    rec=recorder_of(x)
    r=new_array(rec,np.zeros(x.shape)); rec.call("copy",(View(-1,rec.constant(0.0),x.shape,(0,)*x.ndim),),r.view); return r
def stack(parts,axis=0):
    rec=recorder_of(*parts)
    parts=[lift(rec,p) for p in parts]
    vals=np.stack([np.asarray(value_of(p),float) for p in parts])
    ps=[reshape(p,(1,)+p.shape) if isinstance(p,Tracer) else p[None] for p in parts]
    return record(rec,"concatenate",ps,vals,(0,))
def transpose(x): return x.T
def mean(x): return sum(x)/x.size
def matmul(a,b):
    rec=recorder_of(a,b); a=lift(rec,a); b=lift(rec,b)
    va,vb=value_of(a),value_of(b)
    v=np.matmul(va,vb)
    a1,b1=va.ndim==1,vb.ndim==1
    A=view_of(rec,a); B=view_of(rec,b)
    if a1: A=View(A.buffer,A.offset,(1,)+A.shape,(0,)+A.strides)
    if b1: B=View(B.buffer,B.offset,B.shape+(1,),B.strides+(0,))
    r=new_result(rec,v); R=r.view
    if b1: R=View(R.buffer,R.offset,R.shape+(1,),R.strides+(0,))
    if a1: R=View(R.buffer,R.offset,R.shape[:-1]+(1,)+R.shape[-1:],R.strides[:-1]+(0,)+R.strides[-1:])
    rec.call("matmul",(A,B),R)
    return r
dot=matmul
def where(c,x,y):
    return apply(OPS['where'],c,x,y)
from ..ops.table import OPS
