// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build netns

// Package netns runs three replicas in network namespaces of their own, with two
// links each, and cuts one of the links while they stream: packets vanish, and
// nothing is reset. Then the link comes back, and nobody helps.
//
// It changes the network that it runs in, and so runs in a network, mount and process
// namespace of its own, which hack/netns.sh makes (`make test-netns`). All that it
// makes vanishes with the suite, however that ends. The build tag keeps it from
// `go test ./...`, which has no such namespace.
package netns

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/test/harness"
)

const (
	// patience is for what should take a moment, on a machine that is busy.
	patience = 30 * time.Second
	// leaseOf is the duration of the replicas' Leases: short, as the suite waits for
	// it, and long enough that a busy machine fences nobody.
	leaseOf = 5 * time.Second
	// logTail is how much of a manager's log a failed spec prints.
	logTail = 32 << 10
)

var (
	plane *harness.ControlPlane
	// binary is the manager's.
	binary string
)

func TestNetns(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Network namespaces")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(patience)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	EnforceDefaultTimeoutsWhenUsingContexts()
	makeNetwork(ctx)
	var err error
	plane, err = harness.StartControlPlaneAt(ctx, control.host())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
	dir, err := os.MkdirTemp("", "chatrun-manager-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(os.RemoveAll(dir)).To(Succeed()) })
	binary, err = harness.BuildManager(ctx, dir)
	Expect(err).NotTo(HaveOccurred())
})

// report prints figures, also of a spec that passes.
func report(format string, args ...any) {
	AddReportEntry(fmt.Sprintf(format, args...), ReportEntryVisibilityAlways)
}

// startReplica runs a manager in the network namespace of its name, until the end of
// the spec kills it.
func (w *world) startReplica(ctx context.Context, name string) {
	GinkgoHelper()
	logFile := filepath.Join(GinkgoT().TempDir(), "manager.log")
	p, err := harness.StartProcessIn(name, binary, plane.ManagerKubeconfig, w.namespace, name, logFile, "--lease-duration", leaseOf.String())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		Expect(p.Kill()).To(Succeed())
		if !CurrentSpecReport().Failed() {
			return
		}
		raw, err := os.ReadFile(logFile)
		Expect(err).NotTo(HaveOccurred())
		GinkgoWriter.Printf("end of the log of replica %s:\n%s\n", name, raw[max(0, len(raw)-logTail):])
	})
	Eventually(ctx, w.lease(name)).Should(HaveField("Spec.HolderIdentity", Not(BeNil())), "replica %s holds no Lease", name)
}
