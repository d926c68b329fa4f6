package topologies

import (
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// lasting are timers for tests of BFD that measure no time: a machine that stands
// still for a second takes no session down.
var lasting = bfdTimers{300 * time.Millisecond, 10}

// cut tells that the machine was busy since then in a way that may have taken BFD
// sessions with these timers down, at both ends and rightly: the last packet may be as
// old as an interval, and the next one as late.
func (b bfdTimers) cut(t *testing.T, since time.Time) bool {
	t.Helper()
	why := lab.Busy(since, time.Now(), b.detection()-2*b.interval)
	if why != "" {
		t.Logf("BFD may have been down: %s", why)
	}
	return why != ""
}

// failure is something that happens to an interface of the host.
type failure struct {
	name       string
	fail, heal func(l *lab.Lab, ifc string)
}

func failures() []failure {
	return []failure{
		{
			"link down",
			func(l *lab.Lab, ifc string) { l.Node("host").LinkDown(ifc) },
			func(l *lab.Lab, ifc string) { l.Node("host").LinkUp(ifc) },
		},
		{
			"carrier lost",
			func(l *lab.Lab, ifc string) { l.Unplug("host", ifc) },
			func(l *lab.Lab, ifc string) { l.Plug("host", ifc) },
		},
	}
}
