package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// What several calls of a pass say is said once.
func TestFailuresAreSaidOnce(t *testing.T) {
	t.Parallel()
	refused := errors.New("vip 10.68.6.1 is not bound: it is the address of en1")
	both := func(other string) error { return fmt.Errorf("vip: %w", errors.Join(refused, errors.New(other))) }
	l := &Loop{}
	l.failed("steer", both("add rule: no"))
	l.failed(bindCall, both("add address: no"))
	l.failed("unbind", fmt.Errorf("vip: %w", errors.Join(refused)))
	want := "steer: vip 10.68.6.1 is not bound: it is the address of en1\nsteer: add rule: no\nbind: add address: no"
	if got := errors.Join(l.errs...).Error(); got != want {
		t.Errorf("errors of the pass = %q, want %q", got, want)
	}
	if len(l.bindErrs) != 2 {
		t.Errorf("errors of bind = %q, want both", l.bindErrs)
	}
	l.failed(bindCall, nil)
	if l.bindErrs != nil {
		t.Errorf("errors of a good bind = %q", l.bindErrs)
	}
}

// A VIP that is not bound says why, if the kernel's writer did.
func TestWhyUnbound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		errs []string
		want string
	}{
		{"nothing said", nil, "the kernel does not hold it"},
		{"another VIP", []string{"vip 10.68.6.11 is not bound: it is x", "add address 110.68.6.1/32 to vi0: no"}, "the kernel does not hold it"},
		{"refused", []string{"read routes: no", "vip 10.68.6.1 is not bound: it is the address of en1"}, "the kernel does not hold it: it is the address of en1"},
		{"address", []string{"device vi0 is odd", "add address 10.68.6.1/32 to vi0: file exists"}, "the kernel does not hold it: add address 10.68.6.1/32 to vi0: file exists"},
		{"device", []string{"make device vi0 of kind dummy: not permitted"}, "the kernel does not hold it: make device vi0 of kind dummy: not permitted"},
		{"end of a sentence", []string{"no room for 10.68.6.1."}, "the kernel does not hold it: no room for 10.68.6.1."},
		{"colon", []string{"10.68.6.1: no"}, "the kernel does not hold it: 10.68.6.1: no"},
		{"too long", []string{fmt.Sprintf("add 10.68.6.1: %0300d", 1)}, "the kernel does not hold it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := Plan(edit(func(in *Inputs) { in.Bound, in.BindErrors = nil, tt.errs }), t0)
			if got := d.VIPs[0].Detail; got != tt.want {
				t.Errorf("detail = %q, want %q", got, tt.want)
			}
		})
	}
}

// What is the same for every interface is found out once in a decision: of 10,000
// VIPs on 64 interfaces it else takes longer than a pass may.
func TestFoundOutOnce(t *testing.T) {
	t.Parallel()
	gone := prefix("10.68.6.9/32")
	p := &planner{now: t0, in: edit(func(in *Inputs) {
		in.Lingering = map[netip.Prefix]time.Time{gone: t0.Add(time.Second)}
		in.BindErrors = []string{"add address 10.68.6.1/32 to vi0: no"}
	})}
	if a, b := p.lingering(), p.lingering(); len(a) != 1 || a[0] != gone || &a[0] != &b[0] {
		t.Errorf("lingering %v, then %v, want the same list of %s", a, b, gone)
	}
	first := p.whyUnbound(prefix("10.68.6.1/32"))
	p.in.BindErrors[0] = "add address 10.68.6.1/32 to vi0: another"
	if again := p.whyUnbound(prefix("10.68.6.1/32")); again != first || p.whyUnbound(gone) != "the kernel does not hold it" {
		t.Errorf("errors are read again: %q, then %q", first, again)
	}
}
