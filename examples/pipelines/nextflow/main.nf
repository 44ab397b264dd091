// nextflow run main.nf --reads 'data/*.fasta.gz' --outdir results
include { VIRNUCPRO_PREDICT } from './virnucpro'

params.reads = 'data/*.fasta.gz'
params.outdir = 'results'
params.options = ''

workflow {
    samples = Channel.fromPath(params.reads, checkIfExists: true).map { file -> tuple(file.simpleName, file) }
    VIRNUCPRO_PREDICT(samples, params.options)
    VIRNUCPRO_PREDICT.out.table.map { sample, table -> table }
        .mix(VIRNUCPRO_PREDICT.out.multiqc)
        .collectFile(storeDir: params.outdir)
}
