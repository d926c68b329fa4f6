// Package etcdtest runs an etcd inside the test process, or as a process of its
// own that is the test's binary.
package etcdtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Start runs an etcd on 127.0.0.1 until the test ends and returns its endpoint.
// The function that it returns ends it sooner.
func Start(tb testing.TB) (endpoint string, stop func()) {
	tb.Helper()
	var e *embed.Etcd
	for {
		var err error
		if e, err = start(tb.TempDir(), "127.0.0.1", freePort(tb), freePort(tb)); err == nil {
			break
		}
		// A port that was free may be anybody's by now.
		if !strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
			tb.Fatal(err)
		}
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			e.Close()
		}
	}
	tb.Cleanup(stop)
	return e.Config().ListenClientUrls[0].String(), stop
}

// Serve runs an etcd with its data in dir on an address and the usual ports until
// it fails: the body of a process.
func Serve(dir, address string) error {
	e, err := start(dir, address, 2379, 2380)
	if err != nil {
		return err
	}
	return <-e.Err()
}

func start(dir, address string, client, peer int) (*embed.Etcd, error) {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = dir, "error", []string{os.DevNull}
	cfg.ListenClientUrls = urls(address, client)
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = urls("127.0.0.1", peer)
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case <-time.After(30 * time.Second):
		e.Close()
		return nil, fmt.Errorf("etcd is not ready after 30 s")
	}
}

func urls(address string, port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: net.JoinHostPort(address, fmt.Sprint(port))}}
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()                     //nolint:errcheck // it was never used
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is TCP
}
