// Scores one sample. A process that was killed is retried by Nextflow in a new folder; within a folder --resume goes on.
process VIRNUCPRO_PREDICT {
    tag "${sample}"
    label 'process_medium'
    cpus 2
    memory { 2.GB * task.attempt }
    errorStrategy { task.exitStatus in [3, 137, 143] ? 'retry' : 'finish' }
    maxRetries 2

    input:
    tuple val(sample), path(sequences)
    val options // of `virnucpro predict`, for example '--model bundles/mine --min-probability 0.9'

    output:
    tuple val(sample), path("${sample}.tsv"), emit: table
    tuple val(sample), path("${sample}.viruses.fasta.gz"), emit: viruses
    tuple val(sample), path("${sample}.rejected.tsv"), emit: rejected
    path "${sample}.virnucpro_mqc.json", emit: multiqc
    path "${sample}.summary.json", emit: summary

    script:
    """
    virnucpro predict ${sequences} --quiet --threads ${task.cpus} ${options} \\
        --output ${sample}.tsv --resume \\
        --virus-fasta ${sample}.viruses.fasta.gz \\
        --rejected ${sample}.rejected.tsv \\
        --summary ${sample}.summary.json \\
        --multiqc ${sample}.virnucpro_mqc.json
    """
}
