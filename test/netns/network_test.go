// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netns

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// ipTime bounds one call of ip, which takes milliseconds.
const ipTime = 10 * time.Second

// replicas are their names, and those of their network namespaces.
var replicas = []string{"a", "b", "c"}

// bridge is a network between the replicas and us. No replica has a route from one
// to the other, so a link that is cut leaves no way around.
type bridge struct {
	name string
	// subnet has no length. Nobody else is in our namespace, so any will do but
	// 10.0.0.0/24, which the API server gives to Services.
	subnet string
}

var (
	// control is where the API server is.
	control = bridge{"control", "10.77.1."}
	// data is where the provider is.
	data = bridge{"data", "10.77.2."}
)

// host is our own address on it.
func (b bridge) host() string { return b.subnet + "1" }

// address is a replica's.
func (b bridge) address(replica string) string {
	return b.subnet + fmt.Sprint(11+slices.Index(replicas, replica))
}

// port is our end of a replica's link. The other end has the bridge's name.
func (b bridge) port(replica string) string { return replica + "-" + b.name }

// makeNetwork makes all namespaces, bridges and links.
func makeNetwork(ctx context.Context) {
	GinkgoHelper()
	// A network that is used is not ours to change.
	all, err := net.Interfaces()
	Expect(err).NotTo(HaveOccurred())
	for _, i := range all {
		Expect(i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0).To(BeTrue(),
			"%s is up: the suite needs a network namespace of its own, which `make test-netns` gives it", i.Name)
	}
	ip(ctx, "link set lo up")
	for _, b := range []bridge{control, data} {
		ip(ctx, "link add %s type bridge", b.name)
		ip(ctx, "address add %s/24 dev %s", b.host(), b.name)
		ip(ctx, "link set %s up", b.name)
	}
	for _, name := range replicas {
		ip(ctx, "netns add %s", name)
		ip(ctx, "-netns %s link set lo up", name)
		for _, b := range []bridge{control, data} {
			ip(ctx, "link add %s type veth peer name %s netns %s", b.port(name), b.name, name)
			ip(ctx, "link set %s master %s up", b.port(name), b.name)
			ip(ctx, "-netns %s address add %s/24 dev %s", name, b.address(name), b.name)
			ip(ctx, "-netns %s link set %s up", name, b.name)
		}
	}
}

// ip runs iproute2's, and fails the spec with what it says.
func ip(ctx context.Context, format string, args ...any) {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, ipTime)
	defer cancel()
	line := fmt.Sprintf(format, args...)
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "ip %s: %s", line, out)
}

// cut is a way to cut a link. Each argument is the name of our end, %[2]s that of
// its bridge.
type cut struct{ begin, end string }

var (
	// goesDown is a cable that is pulled: the replica sees that the carrier is lost,
	// and finds out within seconds that it reaches nobody anew.
	goesDown = cut{"link set %[1]s down", "link set %[1]s up"}
	// goesSilent is a switch that forwards nothing any more: the replica sees nothing
	// at all.
	goesSilent = cut{"link set %[1]s nomaster", "link set %[1]s master %[2]s"}
)

// of cuts the link of a replica to a bridge. What it returns heals it; the end of
// the spec does so at the latest.
func (c cut) of(ctx context.Context, replica string, b bridge) (heal func(context.Context)) {
	GinkgoHelper()
	healed := false
	heal = func(ctx context.Context) {
		GinkgoHelper()
		if !healed {
			ip(ctx, c.end, b.port(replica), b.name)
			healed = true
		}
	}
	DeferCleanup(func(ctx SpecContext) { heal(ctx) })
	ip(ctx, c.begin, b.port(replica), b.name)
	return heal
}
