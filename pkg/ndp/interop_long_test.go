//go:build long

package ndp

import (
	"fmt"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// FRR at its own pace stays without a change for minutes; killed without a word,
// it goes in bounded time.
func TestLongInteropFRRStays(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		ns.VethTo("en1", r1, "e1")
		router := linkLocal(t, r1, "e1")
		linkLocal(t, ns, "en1")
		f := startFRR(t, r1, "e1")
		f.idle()
		o := run(t, "en1")
		o.awaitRouters("en1", advertises(router, "en1"))
		pokes := o.pokes.Load()
		stay := time.NewTimer(75 * time.Second)
		defer stay.Stop()
		<-stay.C
		if got := o.pokes.Load(); got != pokes {
			t.Errorf("%d pokes, and en1 is %+v", got-pokes, o.iface("en1"))
		}
		f.bgpd.kill()
		f.zebra.kill()
		began := time.Now()
		// Far less than maxHold, for which it stays as a neighbour.
		netnstest.Until(t, minHold+patience, func() error {
			for _, r := range o.iface("en1").Routers {
				if r.ByAdvertisement {
					return fmt.Errorf("%+v still advertises", r)
				}
			}
			return nil
		})
		t.Logf("no longer advertises after %s", time.Since(began))
		o.end()
	})
}
