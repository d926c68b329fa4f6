// Package topologies tests the built daemon against real routers, in networks
// that the files next to it describe. See package lab for how a test is written.
package topologies

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// What all topologies have in common.
var (
	vip4 = netip.MustParsePrefix("10.68.6.1/32")
	vip6 = netip.MustParsePrefix("fd68:6::1/128")
	// client is behind the routers.
	client4 = netip.MustParseAddr("10.68.9.9")
	client6 = netip.MustParseAddr("fd68:9::9")
)

// built is the daemon's binary, built when the first test asks for it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	if code, is := serveEtcd(); is {
		os.Exit(code)
	}
	beside()
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// beside lets more tests run side by side than the machine has processors, unless
// -parallel says how many: those that can wait for routers most of their time.
func beside() {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if said {
		return
	}
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// binary returns the path of the daemon's binary: VIPSPEAKER_BINARY, or one
// that is built once for all tests.
func binary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("VIPSPEAKER_BINARY"); path != "" {
		return path
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "vipspeaker-test-"); built.err == nil { //nolint:usetesting // it outlives the test that builds
			built.path, built.err = lab.Build(context.WithoutCancel(tb.Context()), built.dir)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.path
}

// startSpeaker starts the daemon on the host of the topology and waits until all
// sessions are up and everything is announced.
func startSpeaker(t *testing.T, l *lab.Lab) *lab.Speaker {
	t.Helper()
	s := lab.StartSpeaker(l.Node("host"), binary(t))
	s.WaitStatus(15*time.Second, "everything is announced", lab.Established)
	return s
}
