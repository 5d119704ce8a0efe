import os, time, json, sys
from tests.bench.harness import *
build(); os.sched_setaffinity(0,{LOAD_CORE})
N=int(sys.argv[1]) if len(sys.argv)>1 else 1000
for rep in range(3):
    s=RedisServer().start(); c=redis.Redis.from_url(s.url)
    g=Gateway(s, SSE_THROTTLE="off"); empty=g.memory()
    l=load(g.port, "/api/projects/p-1/stream", N, 8)
    time.sleep(.5); idle=g.memory(); a=g.cpu_s(); n=publish(c,20,6); time.sleep(.3); b=g.cpu_s()
    r=result(l); print("gateway cpu/delivery us", round((b-a)*1e6/(n*N),2), "idle KiB", round((idle-empty)/1024/N,2), r["events"], n*N, r["p50_ms"], r["p99_ms"], r["max_ms"])
    g.stop(); s.stop()
    p=free_port(); f=subprocess.Popen([str(BUILD/"floor"),str(p),str(N),"20","6"],stdout=subprocess.PIPE,text=True,preexec_fn=pinned(SERVER_CORE)); time.sleep(.2)
    l=load(p,"/",N,8); fr=json.loads(f.communicate()[0]); r=result(l); print("floor", fr, r["p50_ms"], r["p99_ms"], r["max_ms"])
