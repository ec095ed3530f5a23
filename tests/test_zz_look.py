import sys
sys.path.insert(0,'/work/main')
import pytest, re
from tests.test_live import *
def test_look(searching):
    at = Terminal(compiling(searching), 110, 40, {"LIVE_KEY": KEY})
    text=at.end(); at.close()
    parts=re.split(r"\r\x1b\[\d+A\x1b\[J", text)
    print(len(parts)); print(parts[len(parts)//2]); print("-----"); print(parts[-1]); 
