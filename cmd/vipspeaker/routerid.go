package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"vipspeaker/internal/draft"
)

// routerIDName is the file in the state directory with the BGP identifier that
// was chosen when the configuration gives none. Routers must see the same one
// after a restart (RFC 4724 section 4.2), also when the interface that it came
// from is gone. After a drain they have forgotten this host: the file is removed,
// and the next start chooses anew.
const routerIDName = "router-id"

// readRouterID returns the identifier that a former process chose, the zero
// address if there is none.
func readRouterID(stateDir string) (netip.Addr, error) {
	path := filepath.Join(stateDir, routerIDName)
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the directory
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("router id: %w", err)
	}
	id, err := netip.ParseAddr(strings.TrimSpace(string(data)))
	if err != nil || !id.Is4() {
		// Cut short by a crash: it is chosen again.
		return netip.Addr{}, nil
	}
	return id, nil
}

// writeRouterID keeps the identifier for the next process. Without one there is no
// file.
func writeRouterID(stateDir string, id netip.Addr) error {
	if !id.IsValid() {
		return forgetRouterID(stateDir)
	}
	path := filepath.Join(stateDir, routerIDName)
	if err := draft.Write(path, []byte(id.String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("router id: %w", err)
	}
	return nil
}

// forgetRouterID removes the file, if there is one.
func forgetRouterID(stateDir string) error {
	if err := os.Remove(filepath.Join(stateDir, routerIDName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("router id: %w", err)
	}
	return nil
}
