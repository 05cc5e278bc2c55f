// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster runs the operator beside kube-controller-manager, which deletes
// what runs own, empties namespaces, holds quotas and puts roles together.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// patience is for controllers that look at what there is to control every half
// a minute.
const patience = 90 * time.Second

var plane *harness.ControlPlane

func TestCluster(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Cluster")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(patience)
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	var err error
	plane, err = harness.StartControlPlane(ctx)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
	stop, err := plane.StartControllerManager(ctx)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(stop()).To(Succeed()) })
	m, err := harness.StartManager(context.WithoutCancel(ctx), plane.ManagerConfig)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(m.Stop()).To(Succeed()) })
})

// newNamespace makes a namespace with a provider that answers by script.
func newNamespace(ctx context.Context, fake *chattest.Server) string {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "cluster-"}}
	Expect(plane.Client.Create(ctx, ns)).To(Succeed())
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: fake.URL() + "/v1", DefaultModel: "fake-1"},
	}
	Expect(plane.Client.Create(ctx, p)).To(Succeed())
	return ns.Name
}

func newRun(namespace, name string, change ...func(*v1alpha1.ChatRun)) *v1alpha1.ChatRun {
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "fake"}, Prompt: "question of " + name,
			Title: &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	}
	for _, c := range change {
		c(run)
	}
	return run
}

func untilPhase(ctx context.Context, run *v1alpha1.ChatRun, phase v1alpha1.Phase) {
	GinkgoHelper()
	Eventually(ctx, func() v1alpha1.Phase {
		Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
		return run.Status.Phase
	}).Should(Equal(phase))
}

func gone(ctx context.Context, o client.Object, key client.ObjectKey) func() bool {
	return func() bool { return apierrors.IsNotFound(plane.Client.Get(ctx, key, o)) }
}

const size = 40 << 10

var _ = Describe("What a run owns", func() {
	answer := func(storage v1alpha1.OutputStorage, change ...func(*v1alpha1.ChatRun)) func(SpecContext) {
		return func(ctx SpecContext) {
			namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer(string(make([]byte, size))))))
			run := newRun(namespace, "long", change...)
			run.Spec.Output = &v1alpha1.OutputSpec{Storage: storage}
			Expect(plane.Client.Create(ctx, run)).To(Succeed())
			var object client.Object = &corev1.ConfigMap{}
			if storage == v1alpha1.StorageSecret {
				object = &corev1.Secret{}
			}
			untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
			out := run.Status.Output
			Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: out.ConfigMapName + out.SecretName}, object)).To(Succeed())
			if run.Spec.TTLSecondsAfterFinished == nil {
				Expect(plane.Client.Delete(ctx, run, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
			} else {
				Eventually(ctx, gone(ctx, &v1alpha1.ChatRun{}, client.ObjectKeyFromObject(run))).Should(BeTrue())
			}
			key := client.ObjectKey{Namespace: namespace, Name: "chatrun-" + string(run.UID) + "-1"}
			Eventually(ctx, gone(ctx, object, key)).Should(BeTrue())
		}
	}
	It("goes with it: a ConfigMap", answer(v1alpha1.StorageConfigMap))
	It("goes with it: a Secret", answer(v1alpha1.StorageSecret))
	It("goes with it at the end of its TTL", answer(v1alpha1.StorageConfigMap, func(r *v1alpha1.ChatRun) {
		r.Spec.TTLSecondsAfterFinished = new(int32(5))
	}))

	It("stays if it is orphaned", func(ctx SpecContext) {
		namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer(string(make([]byte, size))))))
		run := newRun(namespace, "long")
		Expect(plane.Client.Create(ctx, run)).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(plane.Client.Delete(ctx, run, client.PropagationPolicy(metav1.DeletePropagationOrphan))).To(Succeed())
		Eventually(ctx, gone(ctx, &v1alpha1.ChatRun{}, client.ObjectKeyFromObject(run))).Should(BeTrue())
		object := &corev1.ConfigMap{}
		Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: run.Status.Output.ConfigMapName}, object)).To(Succeed())
		Expect(object.OwnerReferences).To(BeEmpty())
	})
})

var _ = Describe("A quota", func() {
	It("bounds the runs of a namespace, and what is deleted makes room", func(ctx SpecContext) {
		namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer("an answer"))))
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "runs"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/chatruns.chatrun.dev": resource.MustParse("2")}},
		}
		Expect(plane.Client.Create(ctx, quota)).To(Succeed())
		Eventually(ctx, func() bool {
			Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(quota), quota)).To(Succeed())
			_, counted := quota.Status.Used["count/chatruns.chatrun.dev"]
			return counted
		}).Should(BeTrue())
		first, second := newRun(namespace, "first"), newRun(namespace, "second")
		Expect(plane.Client.Create(ctx, first)).To(Succeed())
		Expect(plane.Client.Create(ctx, second)).To(Succeed())
		err := plane.Client.Create(ctx, newRun(namespace, "third"))
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err.Error()).To(ContainSubstring("exceeded quota: runs"))
		untilPhase(ctx, second, v1alpha1.PhaseSucceeded)
		Expect(plane.Client.Delete(ctx, first)).To(Succeed())
		Eventually(ctx, func() error { return plane.Client.Create(ctx, newRun(namespace, "third")) }).Should(Succeed())
	})

	It("on ConfigMaps ends a long answer in a failure that names it", func(ctx SpecContext) {
		namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer(string(make([]byte, size))))))
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "maps"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/configmaps": resource.MustParse("0")}},
		}
		Expect(plane.Client.Create(ctx, quota)).To(Succeed())
		run := newRun(namespace, "long")
		Expect(plane.Client.Create(ctx, run)).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseFailed)
		Expect(run.Status.Conditions[0].Reason).To(Equal(v1alpha1.ReasonOutputRefused))
		Expect(run.Status.Conditions[0].Message).To(ContainSubstring("exceeded quota: maps"))
		Expect(run.Status.Output.Text).To(HaveLen(v1alpha1.MaxInlineOutputBytes))
	}, SpecTimeout(2*time.Minute))
})

var _ = Describe("A namespace that is deleted", func() {
	It("takes its streaming runs along, and the manager goes on", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		fake := chattest.Start(GinkgoT(), func(r chattest.Request) chattest.Response {
			if r.LastUser == "question of after" {
				return chattest.Answer("an answer")
			}
			return chattest.Answer("never ", "read").HoldAfter(1, gate)
		})
		namespace := newNamespace(ctx, fake)
		run := newRun(namespace, "streams")
		Expect(plane.Client.Create(ctx, run)).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		Expect(fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 1 })).To(Succeed())
		Expect(plane.Client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
		Expect(fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 0 })).To(Succeed())
		Eventually(ctx, gone(ctx, &corev1.Namespace{}, client.ObjectKey{Name: namespace})).Should(BeTrue())
		Expect(fake.Ledger().For(run.Spec.Prompt, chattest.PurposeAnswer).Cancelled).To(Equal(1))

		after := newRun(newNamespace(ctx, fake), "after")
		Expect(plane.Client.Create(ctx, after)).To(Succeed())
		untilPhase(ctx, after, v1alpha1.PhaseSucceeded)
	})
})

var _ = Describe("What the manager makes for itself", func() {
	It("goes with its account, also where it was killed; runs stay", func(ctx SpecContext) {
		namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer("an answer"))))
		dir := GinkgoT().TempDir()
		account, err := plane.AddAccount(ctx, namespace, dir, namespace)
		Expect(err).NotTo(HaveOccurred())
		binary, err := harness.BuildManager(ctx, dir)
		Expect(err).NotTo(HaveOccurred())
		args, err := account.RelayArgs()
		Expect(err).NotTo(HaveOccurred())
		p, err := harness.StartProcess(binary, account.Kubeconfig, namespace, "killed", filepath.Join(dir, "log"), append(args, "--watch-namespaces", namespace)...)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(p.Kill)

		lease, secret := &coordinationv1.Lease{}, &corev1.Secret{}
		leaseKey, secretKey := client.ObjectKey{Namespace: namespace, Name: "killed"}, client.ObjectKey{Namespace: namespace, Name: "chatrun-relay-ca"}
		Eventually(ctx, func() error { return plane.Client.Get(ctx, leaseKey, lease) }).Should(Succeed())
		// Whoever comes as another replica makes it show a certificate, and so make an
		// authority.
		Eventually(ctx, func() error {
			c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", args[1])
			if err == nil {
				err = c.Close()
			}
			return errors.Join(err, plane.Client.Get(ctx, secretKey, secret))
		}).Should(Succeed())
		run := newRun(namespace, "stays")
		Expect(plane.Client.Create(ctx, run)).To(Succeed())
		Expect(p.Kill()).To(Succeed())

		owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "manager"}}
		Expect(plane.Client.Delete(ctx, owner)).To(Succeed())
		Eventually(ctx, gone(ctx, lease, leaseKey)).Should(BeTrue())
		Eventually(ctx, gone(ctx, secret, secretKey)).Should(BeTrue())
		Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
	})
})

var _ = Describe("The built-in roles", func() {
	It("hold the rules that are part of them", func(ctx SpecContext) {
		files, err := filepath.Glob(filepath.Join(harness.Root(), "config", "rbac", "users", "chat*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		roles := 0
		for _, file := range files {
			raw, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			role := &rbacv1.ClusterRole{}
			Expect(yaml.UnmarshalStrict(raw, role)).To(Succeed())
			Expect(plane.Client.Create(ctx, role)).To(Succeed())
			roles++
		}
		Expect(roles).To(BeNumerically(">=", 3))
		namespace := newNamespace(ctx, chattest.Start(GinkgoT(), chattest.Always(chattest.Answer("an answer"))))
		for _, role := range []string{"view", "edit"} {
			Expect(plane.Client.Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "user-who-may-" + role}},
			})).To(Succeed())
		}
		may := func(user, verb, where, kind string) bool {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: where, Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: kind,
				},
			}}
			Expect(plane.Client.Create(ctx, review)).To(Succeed())
			return review.Status.Allowed
		}
		Eventually(ctx, func() bool { return may("user-who-may-view", "get", namespace, "chatruns") }).Should(BeTrue())
		Eventually(ctx, func() bool { return may("user-who-may-edit", "create", namespace, "chatruns") }).Should(BeTrue())
		Expect(may("user-who-may-view", "create", namespace, "chatruns")).To(BeFalse())
		Expect(may("user-who-may-view", "get", "default", "chatruns")).To(BeFalse())
		Expect(may("user-who-may-edit", "create", namespace, "chatproviders")).To(BeFalse())
	})
})
