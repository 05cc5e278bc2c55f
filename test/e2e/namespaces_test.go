// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

var _ = Describe("A manager that watches some namespaces", func() {
	It("carries out their runs by Roles alone, and beside one that watches all, which sees to the rest", func(ctx SpecContext) {
		respond := func(r chattest.Request) chattest.Response {
			if r.Purpose == chattest.PurposeTitle {
				return chattest.Answer("A title")
			}
			return chattest.Answer("Hello")
		}
		watched, other := newWorld(ctx, respond), newWorld(ctx, respond)
		account, err := plane.AddAccount(ctx, other.namespace, GinkgoT().TempDir(), watched.namespace)
		Expect(err).NotTo(HaveOccurred())
		path, err := binary()
		Expect(err).NotTo(HaveOccurred())
		logFile := filepath.Join(GinkgoT().TempDir(), "confined.log")
		// The Leases of both are where its account may write them, and no run is watched.
		confined, err := harness.StartProcess(path, account.Kubeconfig, other.namespace, "confined", logFile,
			"--watch-namespaces", watched.namespace, "--zap-log-level", "debug")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(confined.Kill)
		other.replicas(ctx, "confined")
		watched.readyProvider(ctx)
		untilPhase(ctx, watched.run(ctx, "first", withTitle), v1alpha1.PhaseSucceeded)

		By("what it does not watch lies there, and its readers are told so")
		other.provider(ctx)
		left := other.run(ctx, "left")
		code, body := get(ctx, harness.StreamURL(confined.Stream, other.namespace, "left")+"?wait=1m")
		Expect(code).To(Equal(http.StatusNotFound))
		Expect(body).To(ContainSubstring("does not watch the namespace"))
		untilPhase(ctx, watched.run(ctx, "second"), v1alpha1.PhaseSucceeded)
		Expect(now(ctx, left).Status.Worker).To(BeEmpty())

		By("one that watches all shares with it what both watch, and leaves it nothing else")
		all := other.startProcess("all")
		other.replicas(ctx, "confined", "all")
		Expect(untilPhase(ctx, left, v1alpha1.PhaseSucceeded).Status.Worker).To(Equal("all"))
		workers := map[string]int{}
		for n := range 16 {
			name := fmt.Sprintf("shared-%d", n)
			Expect(untilPhase(ctx, other.run(ctx, name), v1alpha1.PhaseSucceeded).Status.Worker).To(Equal("all"))
			workers[untilPhase(ctx, watched.run(ctx, name), v1alpha1.PhaseSucceeded).Status.Worker]++
		}
		Expect(workers).To(And(HaveKey("all"), HaveKey("confined"), HaveLen(2)))

		Expect(confined.Terminate()).To(Succeed())
		Expect(all.Terminate()).To(Succeed())
		log, err := os.ReadFile(logFile)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(log)).NotTo(ContainSubstring("forbidden"), "it asks for more than its Roles give")
	})
})
