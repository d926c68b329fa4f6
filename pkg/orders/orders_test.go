package orders

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	t0   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	vipa = netip.MustParsePrefix("10.68.6.1/32")
	vipb = netip.MustParsePrefix("10.68.6.2/32")
)

func order(p netip.Prefix, at time.Time, lasts time.Duration) Drain {
	d := Drain{Prefix: p, Name: p.Addr().String(), Since: at, Withdraw: at.Add(30 * time.Second)}
	if lasts > 0 {
		d.Until = at.Add(lasts)
	}
	return d
}

// open opens a store in a directory and counts its changes.
func open(t *testing.T, dir string) (s *Store, changes *int) {
	t.Helper()
	changes = new(int)
	return Open(Options{Log: slog.New(slog.DiscardHandler), Dir: dir, Changed: func() { *changes++ }}), changes
}

func change(t *testing.T, s *Store, do func(o *Orders)) {
	t.Helper()
	if err := s.Change(func(o *Orders, _ time.Time) error { do(o); return nil }); err != nil {
		t.Fatal(err)
	}
}

var options = []cmp.Option{cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()}

// TestDrains: who is drained after which orders, and until when.
func TestDrains(t *testing.T) {
	o := &Orders{}
	is := func(what string, p netip.Prefix, at time.Time, want bool) Drain {
		t.Helper()
		d, ok := o.DrainOf(p, at)
		if ok != want {
			t.Errorf("%s: %s is drained: %t", what, p, ok)
		}
		return d
	}
	var nobody *Orders
	if _, ok := nobody.DrainOf(vipa, t0); ok {
		t.Error("drained without orders")
	}
	o.Drain(order(vipa, t0, 0))
	is("one", vipa, t0.Add(time.Hour), true)
	is("the other", vipb, t0, false)

	again := order(vipa, t0.Add(time.Minute), time.Hour)
	o.Drain(again)
	if d := is("again", vipa, t0.Add(time.Minute), true); !d.Since.Equal(t0) || !d.Withdraw.Equal(t0.Add(30*time.Second)) || !d.Until.Equal(again.Until) {
		t.Errorf("a second order begins anew: %+v", d)
	}
	is("its time is over", vipa, again.Until, false)

	now := t0.Add(2 * time.Minute)
	o.DrainEvery([]Drain{order(vipa, now, time.Minute), order(vipb, now, time.Minute)}, DrainAll{Since: now, Until: now.Add(time.Minute)})
	if d := is("all", vipa, now, true); !d.Since.Equal(t0) || !d.Until.Equal(again.Until) {
		t.Errorf("an order for all cuts the one for a VIP short: %+v", d)
	}
	later := netip.MustParsePrefix("10.68.6.3/32")
	if d := is("all, configured later", later, now, true); d.Withdraw.After(now) {
		t.Errorf("a VIP that comes later is announced until %s", d.Withdraw)
	}
	is("the time of all is over", later, now.Add(time.Minute), false)

	o.All = &DrainAll{Since: now}
	if !o.Undrain(vipb, now) || !o.Undrain(later, now) || o.Undrain(later, now) {
		t.Error("undrain does not tell what was")
	}
	is("but one", vipb, now, false)
	is("but another", later, now, false)
	is("the rest", vipa, now, true)
	o.Drain(order(later, now, time.Second))
	is("that one again", later, now, true)
	is("that one again, and then all is in force", later, now.Add(time.Minute), true)
	o.UndrainEvery()
	is("none", vipa, now, false)
}

// TestOrdersOutliveTheProcess: what is agreed to is there after a crash, with all
// of it; ephemeral VIPs are not.
func TestOrdersOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on demand")
	s, changes := open(t, dir)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is made before there is an order")
	}
	change(t, s, func(*Orders) {})
	if _, err := os.Stat(dir); err == nil {
		t.Error("no order makes a file")
	}
	now := time.Now().Round(0)
	want := &Orders{
		Drains: []Drain{{Prefix: vipa, Name: "vipa", Reason: "new disks", Since: now, Withdraw: now.Add(time.Second), Until: now.Add(time.Hour)}},
		All:    &DrainAll{Reason: "all", Since: now, Until: now.Add(time.Hour), Except: []netip.Prefix{vipb}},
		VIPs:   []VIP{{Name: "one", Spec: json.RawMessage(`{"address":"10.68.7.1"}`), TTL: Duration(10 * time.Second), Added: now}},
	}
	change(t, s, func(o *Orders) {
		*o = *want
		o.VIPs = append(slices.Clone(o.VIPs), VIP{Name: "gone", Spec: json.RawMessage(`{}`), Ephemeral: true})
	})
	if *changes != 2 {
		t.Errorf("%d changes told, want 2", *changes)
	}
	info, err := os.Stat(filepath.Join(dir, Name))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
	before := time.Now()
	got, _ := open(t, dir)
	after := time.Now()
	read := *got.Orders()
	read.VIPs = slices.Clone(read.VIPs)
	if len(read.VIPs) != 1 {
		t.Fatalf("VIPs: %+v", read.VIPs)
	}
	// Its owner has one more TTL from now on.
	if at := read.VIPs[0].Expires; at.Before(before.Add(10*time.Second)) || at.After(after.Add(10*time.Second)) {
		t.Errorf("opened from %s to %s, and it expires at %s", before, after, at)
	}
	read.VIPs[0].Expires = time.Time{}
	if diff := cmp.Diff(want, &read, options...); diff != "" {
		t.Errorf("after a crash:\n%s", diff)
	}

	// An error changes nothing, in memory nor on disk.
	refused := errors.New("no")
	if err = s.Change(func(o *Orders, _ time.Time) error { o.UndrainEvery(); return refused }); !errors.Is(err, refused) || s.Orders().All == nil {
		t.Errorf("refused: %v", err)
	}
	if err = os.Mkdir(filepath.Join(dir, Name+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = s.Change(func(o *Orders, _ time.Time) error { o.UndrainEvery(); return nil })
	if err == nil || !strings.Contains(err.Error(), "keep the order: ") || s.Orders().All == nil {
		t.Errorf("disk fails: %v", err)
	}
}

// TestUnreadableOrders: nobody knows what was drained, so everything is; no order
// is taken but one that needs not know; the file is kept.
func TestUnreadableOrders(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"torn":          {`{"version": 1, "drains": [{"pre`, "unexpected end of JSON input"},
		"empty":         {``, "unexpected end of JSON input"},
		"no version":    {`{}`, "version: "},
		"newer":         {`{"version": 2, "drains": []}`, "version 2 was written by another vipspeaker; this one knows 1"},
		"newer order":   {`{"version": 1, "drains": [{"prefix": "10.68.6.1/32", "only_for": "en1"}]}`, `unknown field "only_for"`},
		"wrong value":   {`{"version": 1, "drains": [{"prefix": "10.68.6.1/33"}]}`, "prefix"},
		"not an object": {`7`, "cannot unmarshal"},
		"a directory":   {"", "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, Name)
			err := os.WriteFile(path, []byte(tt.text), 0o600)
			if name == "a directory" {
				err = errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
			}
			if err != nil {
				t.Fatal(err)
			}
			s, changes := open(t, dir)
			damage := s.Orders().Damage
			if !strings.Contains(damage, tt.want) || !strings.Contains(damage, path) {
				t.Errorf("damage %q, want %q", damage, tt.want)
			}
			if err = Check(dir); err == nil || err.Error() != damage {
				t.Errorf("check: %v, want %s", err, damage)
			}
			d, ok := s.Orders().DrainOf(vipa, time.Now())
			if !ok || !d.Withdraw.IsZero() || !strings.HasPrefix(d.Reason, damage) || !strings.Contains(d.Reason, "undrain --all") {
				t.Errorf("drain %+v, %t", d, ok)
			}
			err = s.Change(func(o *Orders, now time.Time) error { o.Drain(order(vipa, now, 0)); return nil })
			if !errors.Is(err, ErrDamaged) || *changes != 0 {
				t.Errorf("an order is taken: %v", err)
			}
			if err = s.Reset(func(o *Orders, _ time.Time) error { o.UndrainEvery(); return nil }); err != nil {
				t.Fatal(err)
			}
			if _, ok = s.Orders().DrainOf(vipa, time.Now()); ok || *changes != 1 {
				t.Errorf("drained %t after %d changes", ok, *changes)
			}
			if kept, err := os.ReadFile(path + ".damaged"); name != "a directory" && (err != nil || string(kept) != tt.text) {
				t.Errorf("put aside: %q, %v", kept, err)
			}
			if again, _ := open(t, dir); again.Orders().Damage != "" || Check(dir) != nil {
				t.Errorf("after a restart: %s, %v", again.Orders().Damage, Check(dir))
			}
		})
	}
}

// TestUnknownKeysAreKept: what a newer version of the same format has beside is
// still there when this one has written.
func TestUnknownKeysAreKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	if err := os.WriteFile(path, []byte(`{"version": 1, "moves": [{"vip": "x", "n": 12345678901234567890}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, dir)
	change(t, s, func(o *Orders) { o.Drain(order(vipa, t0, 0)) })
	change(t, s, func(o *Orders) { o.UndrainEvery() })
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"moves":[{"vip":"x","n":12345678901234567890}],"version":1}`; strings.Join(strings.Fields(string(text)), "") != want {
		t.Errorf("file %s, want %s", text, want)
	}
}

// TestOrdersEndByThemselves: a drain whose time is over, and a VIP that nobody
// renews, without anybody asking.
func TestOrdersEndByThemselves(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var expired []string
		changes := 0
		s := Open(Options{
			Log: slog.New(slog.DiscardHandler), Dir: dir,
			Changed: func() { changes++ }, Expired: func(names []string) { expired = append(expired, names...) },
		})
		ended := make(chan struct{})
		ctx := t.Context()
		go func() { defer close(ended); _ = s.Run(ctx) }()
		t.Cleanup(func() { <-ended })
		synctest.Wait()
		add := func(o *Orders, name string, ttl time.Duration) {
			v := VIP{Name: name, Spec: json.RawMessage(`{}`), TTL: Duration(ttl)}
			v.Expires = v.end(time.Now())
			o.PutVIP(v)
		}
		change(t, s, func(o *Orders) {
			o.Drain(order(vipa, time.Now(), time.Hour))
			add(o, "short", 10*time.Second)
			add(o, "long", time.Minute)
			add(o, "ever", 0)
		})
		for range 5 { // renewed in time
			time.Sleep(9 * time.Second)
			change(t, s, func(o *Orders) {
				if !o.Renew("short", time.Now()) || o.Renew("nobody", time.Now()) {
					t.Error("renew does not tell what there is")
				}
			})
		}
		if len(expired) > 0 {
			t.Errorf("expired although renewed: %v", expired)
		}
		before := changes
		time.Sleep(10*time.Second - time.Millisecond)
		if len(expired) > 0 {
			t.Errorf("too early: %v", expired)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if _, there := s.Orders().VIP("short"); there || !slices.Equal(expired, []string{"short"}) || changes != before+1 {
			t.Errorf("expired %v, told %d times", expired, changes-before)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if o := s.Orders(); !slices.Equal(expired, []string{"short", "long"}) || len(o.Drains) != 0 || len(o.VIPs) != 1 {
			t.Errorf("expired %v, left %+v", expired, o)
		}
		if again, _ := open(t, dir); len(again.Orders().Drains) != 0 || len(again.Orders().VIPs) != 1 {
			t.Errorf("on disk %+v", again.Orders())
		}
		// The disk fails: the dead owner's VIP goes all the same.
		change(t, s, func(o *Orders) { add(o, "short", time.Second) })
		if err := os.Mkdir(filepath.Join(dir, Name+".new"), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, there := s.Orders().VIP("short"); there {
			t.Error("a full disk keeps a dead owner's VIP alive")
		}
		if again, _ := open(t, dir); len(again.Orders().VIPs) != 2 {
			t.Errorf("the full disk took it: %+v", again.Orders())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		told := changes
		if err := os.Remove(filepath.Join(dir, Name+".new")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retry)
		synctest.Wait()
		if again, _ := open(t, dir); len(again.Orders().VIPs) != 1 || changes != told {
			t.Errorf("once the disk has room: %+v, told %d times", again.Orders(), changes-told)
		}
	})
}

// TestOrderNotSynced: an order of which the caller was told that it failed is carried
// out by no restart, or the caller was told that it may be. It can be given again.
func TestOrderNotSynced(t *testing.T) {
	const maybe = "a restart may carry it out"
	for _, tt := range []struct {
		name  string
		fails int  // how often the directory cannot be synced
		draft bool // and from then on no file can be written at all
		maybe bool
		first bool // there is an order, and so a file, before
	}{
		{name: "once", fails: 1},
		{name: "once, beside another order", fails: 1, first: true},
		{name: "nor when it is taken back", fails: 2, maybe: true},
		{name: "nor can it be taken back", fails: 1, draft: true, maybe: true, first: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			blocked := filepath.Join(dir, Name+".new")
			synctest.Test(t, func(t *testing.T) {
				s, changes := open(t, dir)
				var want Orders
				if tt.first {
					change(t, s, func(o *Orders) { o.Drain(order(vipb, t0, 0)) })
					want = *s.Orders()
				}
				told := *changes
				fails := tt.fails
				s.file.sync = func(string) error {
					if fails == 0 {
						return nil
					}
					fails--
					if tt.draft {
						if err := os.Mkdir(blocked, 0o700); err != nil {
							t.Error(err)
						}
					}
					return errors.New("input/output error")
				}
				give := func() error {
					return s.Change(func(o *Orders, _ time.Time) error { o.Drain(order(vipa, t0, 0)); return nil })
				}
				err := give()
				if err == nil || !strings.Contains(err.Error(), "input/output error") || strings.Contains(err.Error(), maybe) != tt.maybe {
					t.Errorf("the caller is told: %v", err)
				}
				if diff := cmp.Diff(&want, s.Orders(), options...); diff != "" || *changes != told {
					t.Errorf("in force, told %d times (-want +got):\n%s", *changes-told, diff)
				}
				if tt.draft {
					if err := os.Remove(blocked); err != nil {
						t.Error(err)
					}
				}
				ctx := t.Context()
				ended := make(chan struct{})
				go func() { defer close(ended); _ = s.Run(ctx) }()
				t.Cleanup(func() { <-ended })
				time.Sleep(2 * retry)
				synctest.Wait()
				again, _ := open(t, dir)
				if diff := cmp.Diff(&want, again.Orders(), options...); diff != "" {
					t.Errorf("after a restart (-want +got):\n%s", diff)
				}
				if s.behind.Load() || s.file.unsure || fails != 0 {
					t.Errorf("behind %t, unsure %t, %d more failures", s.behind.Load(), s.file.unsure, fails)
				}
				if err := give(); err != nil {
					t.Error(err)
				}
				again, _ = open(t, dir)
				if _, drained := again.Orders().DrainOf(vipa, t0); !drained {
					t.Error("the order was not written the second time")
				}
			})
		})
	}
}

// TestDirectoryIsNone: that no order can be taken is told before one is given.
func TestDirectoryIsNone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	s := Open(Options{Log: slog.New(slog.NewTextHandler(&told, nil)), Dir: dir, Changed: func() {}})
	if !strings.Contains(told.String(), "the data directory is no directory") {
		t.Errorf("the log has %q", told.String())
	}
	if err := s.Change(func(o *Orders, now time.Time) error { o.Drain(Drain{Prefix: vipa, Since: now}); return nil }); err == nil {
		t.Error("an order is taken")
	}
}
