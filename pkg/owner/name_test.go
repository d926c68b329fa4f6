package owner

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/etcdtest"
	"vipspeaker/test/stopwatch"
)

// refusedBy tells whether a host takes no part because of a machine.
func refusedBy(h *host, machine string) func() bool {
	return func() bool {
		s := h.m.State()
		return strings.Contains(s.Refused, "the name a (ownership.host): "+machine+", router id 10.0.0.") && !s.Holds(vip, Now()) && s.Until == 0
	}
}

func takesPart(h *host) func() bool {
	return func() bool { s := h.m.State(); return s.Refused == "" && s.Until > Now() }
}

// Of two machines with one name that start at once, one takes part. The other one
// says why not, and joins when the first one has gone.
func TestSameName(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	hosts := map[string]*host{}
	for i, instance := range []string{"x", "y"} {
		hosts[instance] = startInstance(t, endpoint, "a", instance, i+1, true)
	}
	in, out := hosts["x"], hosts["y"]
	eventually(t, soon, "one takes part, the other does not", func() bool {
		if refusedBy(in, "machine-y")() {
			in, out = out, in
		}
		return owns(in)() && (refusedBy(out, "machine-x")() || refusedBy(out, "machine-y")())
	})
	defer watchOne(t, in, out)()
	c := startHost(t, endpoint, "c", 3, false)
	eventually(t, soon, "the third one is ready", func() bool { return len(c.m.State().VIPs[vip].Ready) == 2 })
	before := c.m.State().VIPs[vip]
	// It goes on being refused while the other one renews, and disturbs nothing.
	ended := time.Now().Add(2 * testLease)
	for time.Now().Before(ended) {
		if takesPart(out)() || !owns(in)() {
			t.Fatalf("two with one name: %+v, %+v", out.m.State(), in.m.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := c.m.State().VIPs[vip]; s.Epoch != before.Epoch || len(s.Ready) != 2 {
		t.Errorf("the others see %+v, saw %+v", s, before)
	}
	if s := out.m.State(); s.VIPs[vip].Owner != "a" || s.Error != "" {
		t.Errorf("who is refused sees %+v", s)
	}
	in.stop()
	t.Logf("joined in %s", eventually(t, soon, "the other one takes part", takesPart(out)))
}

// A daemon that is started again after its death goes on under its name at once,
// although the lease of the former one still lives. The former one, if it lives
// after all, takes no part any more.
func TestSameInstance(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	former := startInstance(t, endpoint, "a", "x", 1, false)
	eventually(t, soon, "it owns it", owns(former))
	former.link.hang(true)
	next := startInstance(t, endpoint, "a", "x", 1, false)
	took := eventually(t, soon, "the next one takes part", takesPart(next))
	t.Logf("takes part after %s", took)
	if now, until := Now(), former.m.State().Until; next.m.State().Refused != "" || now >= until {
		t.Errorf("refused by its former self, whose lease ended %s before", now-until)
	}
	defer watchOne(t, former, next)()
	former.link.hang(false)
	eventually(t, soon, "the former one takes no part", refusedBy(former, "machine-x"))
	eventually(t, soon, "the next one owns it", owns(next))
	if refusedBy(next, "machine-x")() {
		t.Error("both are refused")
	}
	next.stop()
	eventually(t, soon, "one of them goes on", owns(former))
}

// Another machine waits for the end of the lease of one that is silent.
func TestSameNameSilent(t *testing.T) {
	t.Parallel()
	endpoint, _ := etcdtest.Start(t)
	former := startInstance(t, endpoint, "a", "x", 1, false)
	eventually(t, soon, "it owns it", owns(former))
	former.link.hang(true)
	watch := stopwatch.Start(t)
	next := startInstance(t, endpoint, "a", "y", 1, false)
	eventually(t, soon, "the other machine is refused", refusedBy(next, "machine-x"))
	defer watchOne(t, former, next)()
	eventually(t, soon, "it owns it", owns(next))
	if d := watch.Elapsed(); d > testLease+askAgain+time.Second {
		t.Errorf("waited %s for a lease of %s", d, testLease)
	}
	former.link.hang(false)
	eventually(t, soon, "the first one is refused", refusedBy(former, "machine-y"))
}

// What is written by somebody who has lost the name has no effect.
func TestWritesNeedTheName(t *testing.T) {
	t.Parallel()
	m, s := byHand(t)
	thief := *s
	thief.lease = 0
	if _, err := thief.renew(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if other, err := thief.takeName(t.Context(), claim{Instance: "y", Machine: "thief"}); err != nil || other == nil {
		t.Fatalf("taken from one that has it: %+v, %v", other, err)
	}
	if _, err := s.client.Delete(t.Context(), s.nameKey()); err != nil {
		t.Fatal(err)
	}
	if other, err := thief.takeName(t.Context(), claim{Instance: "y", Machine: "thief"}); err != nil || other != nil {
		t.Fatalf("%+v, %v", other, err)
	}
	if _, err := m.act(t.Context(), s, nil); !errors.Is(err, errNoLease) {
		t.Errorf("error %v", err)
	}
	if n := keys(t, s); n != 0 || s.hasName() {
		t.Errorf("keys of %d VIPs, has the name: %t", n, s.hasName())
	}
	m.opt.Instance = "x"
	if refused, err := m.name(t.Context(), s); err != nil || !strings.Contains(refused, "thief") || s.lease != 0 {
		t.Errorf("%q, %v, lease %d", refused, err, s.lease)
	}
}
