// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestAddressThatIsOff: an empty address is off for every server alike; the
// library behind /metrics takes it for all interfaces.
func TestAddressThatIsOff(t *testing.T) {
	for _, value := range []string{"", "0"} {
		o, err := parse([]string{"--worker-name=me", "--metrics-bind-address=" + value})
		if err != nil {
			t.Fatal(err)
		}
		if o.metrics.address != "0" {
			t.Errorf("%q is passed on as %q", value, o.metrics.address)
		}
	}
}

// TestRefusedFlags: what no status or no call could ever take is refused at
// once, and not by every write.
func TestRefusedFlags(t *testing.T) {
	for name, args := range map[string][]string{
		"a worker's name that status refuses": {"--worker-name=" + strings.Repeat("w", 254)},
		"a time before now":                   {"--worker-name=me", "--provider-header-timeout=-1s"},
		"an address without a port":           {"--worker-name=me", "--stream-bind-address=localhost"},
		"an argument":                         {"--worker-name=me", "on"},
		"an unknown flag":                     {"--no-such-flag"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args); err == nil {
				t.Error("accepted")
			}
		})
	}
}
