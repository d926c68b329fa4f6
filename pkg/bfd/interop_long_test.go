//go:build long

package bfd

import "testing"

// Frames are lost in one direction only: who hears nothing tells the other, and
// neither believes the path before both directions work.
func TestLongInteropOneWayFailure(t *testing.T) {
	eachRouter(t, func(w *world, r router, o over) {
		r.configure(o.remote())
		us := w.up(r, o)
		for n, c := range []struct{ port, why, theirs string }{
			{"port1", "neighbor signaled session down", "control detection time expired"},
			{"port2", "control detection time expired", ""},
		} {
			w.cutFrom(c.port)
			s := us.await("not up", func(s SessionState) bool { return s.Status != Up })
			if s.RemoteDiagnostic != c.theirs || s.Downs != uint64(n+1) || s.Diagnostic != c.why && s.Status == Down {
				w.t.Errorf("with nothing from %s: %+v", c.port, s)
			}
			// An end that still hears the other one say Down is in Init from then on.
			w.awaitTheirs(r, o, "not up", func(v theirs) bool { return v.Status != Up })
			// Some packets later it is still not up.
			us.await("sending or hearing on", func(x SessionState) bool { return x.Sent > s.Sent+2 })
			if s = us.state(); s.Status == Up {
				w.t.Errorf("up over half a path: %+v", s)
			}
			if v, err := r.view(o.local); err != nil || v.Status == Up {
				w.t.Errorf("the router's is up over half a path: %+v, %v", v, err)
			}
			w.heal()
			w.awaitBothUp(us, r, o)
		}
	})
}

// cutFrom drops only the frames that enter the switch by a port: port1 is the
// host's, port2 the router's.
func (w *world) cutFrom(port string) {
	w.t.Helper()
	w.sw.Exec("nft", "add table bridge cut; add chain bridge cut c { type filter hook forward priority 0; }; add rule bridge cut c iifname "+port+" drop")
}
