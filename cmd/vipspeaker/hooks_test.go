package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/hook"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

func TestHookStates(t *testing.T) {
	up := []string{"/bin/true", "up"}
	c := &config.Config{VIPs: []config.VIP{{Name: "vipa", On: config.Hooks{Announced: up, Lost: up, Timeout: time.Second}}}}
	s := &status.Status{VIPs: []status.VIP{
		{
			Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Bound: true, Announced: true, Reason: "", Detail: "d",
			Interfaces: []status.VIPInterface{{Interface: "en1", Announced: true}, {Interface: "en5"}},
			Role:       &status.Role{Owns: true, Ceased: "c", Owner: "a", Epoch: 7},
		},
		{Name: "gone", Bound: true},
	}}
	want := []hook.State{{
		Name: "vipa", Address: "10.68.6.1/32", Announced: true, Bound: true, Detail: "d", Interfaces: []string{"en1"}, Timeout: time.Second,
		Owns: true, Ceased: "c", Owner: "a", Epoch: 7,
		Commands: map[string][]string{hook.Announced: up, hook.Withdrawn: nil, hook.Bound: nil, hook.Unbound: nil, hook.Owner: nil, hook.Lost: up},
	}}
	if diff := cmp.Diff(want, hookStates(s, c)); diff != "" {
		t.Error(diff)
	}
}

// TestHooksOfTheDaemon: its commands are told what it binds, and at its stop what
// it does not any more.
func TestHooksOfTheDaemon(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		const notes = "/run/notes"
		on := `{bound: [/bin/sh, -c, 'echo "$VIPSPEAKER_EVENT $VIPSPEAKER_ADDRESS $VIPSPEAKER_REASON" >>/run/notes'], unbound: [/bin/sh, -c, 'echo "$VIPSPEAKER_EVENT $VIPSPEAKER_VIP" >>/run/notes']}`
		l := newLab(t, ns, strings.Replace(labConfig, "preferred_source: true}", "preferred_source: true, on: "+on+"}", 1))
		p := start(t, nil, nil, "run", "--config", l.config, "--data-dir", "/run/data")
		told := func(want string) {
			t.Helper()
			netnstest.Until(t, soon, func() error {
				if got, _ := os.ReadFile(notes); string(got) != want {
					return fmt.Errorf("notes %q, want %q", got, want)
				}
				return nil
			})
		}
		told("bound 10.68.6.1/32 no_session\n")
		if code := p.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		told("bound 10.68.6.1/32 no_session\nunbound vipa\n")
		l.same(t)
	})
}
