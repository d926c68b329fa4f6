// Package etcdtest runs an etcd inside the test process, or as a process of its
// own that is the test's binary.
package etcdtest

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// started counts the etcds of the process.
var started atomic.Uint32 //nolint:gochecknoglobals // of all tests

// Start runs an etcd on a loopback address until the test ends and returns its
// endpoint. The function that it returns ends it sooner.
//
// The address is that of no other process, and the ports are no ephemeral ones: one
// that was picked as free may be taken by anybody before etcd has it.
func Start(tb testing.TB) (endpoint string, stop func()) {
	tb.Helper()
	pid := os.Getpid()
	address := netip.AddrFrom4([4]byte{127, byte(64 + pid>>16), byte(pid >> 8), byte(pid)}) //nolint:gosec // it has 22 bits at most
	port := 2379 + 10*int(started.Add(1))
	e, err := start(tb.TempDir(), urls(address.String(), port), urls(address.String(), port+1))
	if err != nil {
		tb.Fatal(err)
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
	e, err := start(dir, urls(address, 2379), urls("127.0.0.1", 2380))
	if err != nil {
		return err
	}
	return <-e.Err()
}

func start(dir string, client, peer []url.URL) (*embed.Etcd, error) {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = dir, "error", []string{os.DevNull}
	cfg.ListenClientUrls = client
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = peer
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
